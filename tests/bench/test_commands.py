"""`dmx bench` and `dmx evaluate` on the shipped bundle, at its smallest resolution."""

from __future__ import annotations

import csv
import io
import json
from functools import partial

import msgspec
import numpy as np
import pytest

from depthmask.bench import grid, peaks, read_result, report_parts, roofline
from depthmask.bench.memory import PeakMemory
from depthmask.bench.sweep import SweepResult
from depthmask.bundle import open_bundle
from depthmask.commands.sweep_options import print_sweep
from depthmask.frames import write_png

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def side():
    return str(open_bundle().manifest.resolutions[0])


@pytest.fixture(autouse=True)
def no_memory_process(request, monkeypatch):
    """It takes seconds a cell; one test has the real thing."""
    if "real_memory" not in request.fixturenames:
        monkeypatch.setattr(grid, "peak_memory", lambda request: PeakMemory(host_bytes=5_000_000))


@pytest.fixture(autouse=True)
def short_roofline(monkeypatch):
    """The same of small matrices and arrays, with few calls: a report takes seconds less."""
    sizes = {"matrix_sides": (64,), "array_bytes": 1 << 20, "seconds": 0.02}
    monkeypatch.setattr(report_parts, "measure_peaks", partial(peaks.measure_peaks, **sizes))
    monkeypatch.setattr(report_parts, "roofline", partial(roofline.roofline, seconds=0.1))


@pytest.fixture
def real_memory():
    pass


@pytest.fixture
def dmx(dmx_inside):
    return dmx_inside


@pytest.fixture
def quick(side, samples):
    return ["--data", samples.folder, "--resolution", side, "--threads", 1]


@pytest.fixture
def quick_bench(quick):
    return [*quick, "--runtimes", "onnxruntime", "--seconds", 0, "--min-runs", 3]


def test_bench_writes_what_it_prints(dmx, quick_bench, tmp_path, real_memory):
    pytest.importorskip("matplotlib")
    out, plot = tmp_path / "bench.json", tmp_path / "bench.png"
    code, printed, errors = dmx("bench", *quick_bench, "--out", out, "--plot", plot, "--json")
    assert (code, errors) == (0, "")
    assert json.loads(printed) == json.loads(out.read_text(encoding="utf-8"))
    (cell,) = read_result(out).cells
    assert (cell.status, cell.runtime, cell.accuracy.count) == ("ok", "onnxruntime", 3)
    assert 30_000_000 < cell.peak_memory_bytes < 2_000_000_000
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "bench.png", "data"]


def test_bench_compares_with_an_earlier_result_and_reports(dmx, quick_bench, tmp_path):
    base, report = tmp_path / "base.json", tmp_path / "report.html"
    assert dmx("bench", *quick_bench, "--out", base)[0] == 0
    arguments = ("--against", base, "--fail-if", "slower=3%", "--report", report)
    code, printed, _ = dmx("bench", *quick_bench, *arguments)
    assert code == 0  # so few calls cannot tell
    assert "1 cannot tell" in " ".join(printed.split())
    page = report.read_text(encoding="utf-8")
    assert page.count("<figure><img") == 3  # the data set's samples
    assert "The ten slowest nodes" in page


def test_a_sweep_exports_what_it_chose(dmx, samples, tmp_path, tiny_chain, monkeypatch, capsys):
    from depthmask.export import source

    monkeypatch.setattr(source, "open_chain", lambda *_, **__: (tiny_chain, {}))
    out = tmp_path / "chosen"
    arguments = ["--sweep", "--export", out, "--data", samples.folder, "--threads", 1]
    arguments += ["--resolutions", "32", "--runtimes", "onnxruntime", "--percentile", 50]
    code, printed, _ = dmx("bench", *arguments, "--target-ms", 10_000, "--json")
    assert code == 0
    found = msgspec.json.decode(printed, type=SweepResult)
    bundle = open_bundle(out)
    assert bundle.manifest.verified
    assert bundle.manifest.resolutions == (found.chosen.cell.resolution,)
    print_sweep(found, bundle)
    table = " ".join(capsys.readouterr().out.split())
    for words in ("p50 ms", "chosen", "Next: dmx bench"):
        assert words in table
    code, _, errors = dmx("bench", *arguments, "--overwrite", "--target-ms", 0.01)
    assert code == 1
    assert "p50 must be within 0.01 ms" in errors
    assert open_bundle(out).manifest == bundle.manifest


def test_bench_prints_a_table(dmx, quick_bench):
    code, printed, _ = dmx("bench", *quick_bench)
    assert code == 0
    assert "mask" in printed
    assert "Machine:" in printed


@pytest.mark.parametrize(
    ("arguments", "expected", "message"),
    [
        (["--out", "{old}"], 2, "--overwrite"),
        (["--out", "{old}", "--plot", "{old}"], 2, "must be different files"),
        (["--out", "{folder}/absent/b.json"], 6, "cannot be written"),
        (["--resolution", "77"], 2, "but got 77"),
        (["--resolution", "8"], 2, "32 to 4096"),
        (["--runtimes", "nothing"], 2, "a runtime must be one of"),
        (["--data", "{folder}/absent"], 3, "there is none"),
        (["--frame-size", "64,128"], 2, "must be one size"),
        (["--report", "{folder}/r.pdf"], 2, "must end in .html, .md or .csv"),
        (["--report", "{folder}/a.md", "--report", "{folder}/a.md"], 2, "must be different files"),
        (["--report", "{folder}/absent/r.md"], 6, "cannot be written"),
        (["--report", "{folder}/{long}.csv"], 6, "File name too long"),
        (["--report", "/proc/r.md"], 6, "cannot be written"),
        (["--data", "{old}"], 3, "must be an image or a video"),
        (["--arrivals-per-s", "10,x"], 2, "must be numbers above 0"),
        (["--arrivals-per-s", "nan"], 2, "must be numbers above 0"),
        (["--arrivals-per-s", "10", "--batch", "2"], 2, "with a batch of 1"),
        (["--against", "{future}"], 3, "of another version"),
        (["--fail-if", "slower=3%"], 2, "must come with --against"),
        (["--sweep", "--report", "r.md"], 2, "--sweep must come without --out"),
        (["--sweep", "--target-ms", "5"], 2, "--sweep must have --target-ms and --export"),
        (["--sweep", "--target-ms", "5", "--export", "{folder}"], 2, "must not exist yet"),
        (["--against", "{old}"], 3, "must be a result of `dmx bench --out`"),
        (["--precision", "fp16"], 2, "in fp16 must be given"),
        (["--threads", "0"], 2, "must be numbers from 1 up"),
        (["--batch", "2"], 4, "--dynamic-batch"),
        (["{folder}/absent"], 3, "must be a bundle"),
        (["--runtimes", "openvino", "--device", "cuda"], 4, "cuda was asked for"),
    ],
)
def test_bench_refuses(dmx, quick_bench, tmp_path, arguments, expected, message):
    old = tmp_path / "old.json"
    old.write_text("old", encoding="utf-8")
    future = tmp_path / "future.json"
    future.write_text('{"schema": 99}', encoding="utf-8")
    paths = {"old": old, "future": future, "folder": tmp_path, "long": 300 * "a"}
    filled = [text.format(**paths) for text in arguments]
    code, _, errors = dmx("bench", *quick_bench, *filled)
    assert code == expected
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert old.read_text(encoding="utf-8") == "old"


def test_bench_goes_on_without_a_cell_and_fails_at_the_end(dmx, quick_bench, tmp_path, monkeypatch):
    open_cell = grid.open_pipeline

    def broken(request):
        if request.runtime == "openvino":
            raise RuntimeError("no luck")
        return open_cell(request)

    monkeypatch.setattr(grid, "open_pipeline", broken)
    out = tmp_path / "bench.json"
    code, printed, errors = dmx(
        "bench", *quick_bench, "--runtimes", "openvino,onnxruntime", "--out", out
    )
    assert code == 1
    assert "1 of 2 were not" in errors
    assert "RuntimeError: no luck" in printed
    assert [cell.status for cell in read_result(out).cells] == ["failed", "ok"]


def test_an_unreadable_sample_is_the_inputs_fault(dmx, quick_bench, samples):
    (samples.folder / "2.depth.png").write_bytes(b"damaged")
    code, printed, errors = dmx("bench", *quick_bench)
    assert (code, printed) == (3, "")
    assert "2.depth.png must be a whole PNG" in errors


def test_an_interrupted_bench_keeps_its_rounds_and_goes_on(dmx, quick_bench, tmp_path, monkeypatch):
    from depthmask.bench.latency import LatencyMeter

    sample, turns = LatencyMeter.sample, []

    def interrupt(*arguments):
        turns.append(arguments)
        if len(turns) == 3:
            raise KeyboardInterrupt
        sample(*arguments)

    monkeypatch.setattr(LatencyMeter, "sample", interrupt)
    out, report, other = (tmp_path / name for name in ("bench.json", "bench.md", "other.md"))
    kept = ["--out", out, "--report", report]
    code, printed, errors = dmx("bench", *quick_bench, *kept)
    assert code == 130
    assert errors.splitlines()[-1] == "error: interrupted"
    assert "kept as partial:" in errors
    for text in (printed, report.read_text(encoding="utf-8")):
        assert "INTERRUPTED after 2 of 5 rounds" in " ".join(text.split())
    part = read_result(out)
    assert (part.rounds_done, part.complete) == (2, False)
    other.write_text("somebody's", encoding="utf-8")
    code, _, errors = dmx("bench", *quick_bench, "--out", out, "--report", other)
    assert (code, other.read_text(encoding="utf-8")) == (2, "somebody's")
    code, printed, _ = dmx("bench", *quick_bench, *kept)
    assert code == 0
    assert "INTERRUPTED" not in report.read_text(encoding="utf-8")
    whole = read_result(out)
    assert whole.complete
    kept = part.cells[0].latency.samples_ms
    assert whole.cells[0].latency.samples_ms[: len(kept)] == kept
    code, _, errors = dmx("bench", *quick_bench, "--out", out)
    assert code == 2  # finished: an output that exists
    assert "--overwrite" in errors


def test_a_video_is_measured_with_and_its_flicker_reported(dmx, side, clip_path, tmp_path):
    arguments = ["--data", clip_path, "--limit", 4, "--resolution", side, "--threads", 1]
    arguments += ["--runtimes", "onnxruntime", "--seconds", 0, "--min-runs", 3]
    arguments += ["--arrivals-per-s", "100"]
    names = ("r.html", "r.md", "r.csv")
    for name in names:
        arguments += ["--report", tmp_path / name]
    code, printed, _ = dmx("bench", *arguments)
    assert code == 0
    assert "A video has no labels: accuracy was not measured." in " ".join(printed.split())
    assert "sustained" in printed
    page, markdown, table = ((tmp_path / name).read_text(encoding="utf-8") for name in names)
    for text in (page, markdown):
        assert "Flicker along the motion over 3 pairs of frames" in text
        assert "Under load" in text
    assert page.count("<figure><img") == 4
    (row,) = csv.DictReader(io.StringIO(table))
    assert (row["data"], row["flicker_pairs"], row["flicker_data"]) == ("clip.mkv", "3", "clip.mkv")
    assert float(row["flicker_mask"]) < 0.01
    assert row["at_100_per_s_offered"] == "3"


def test_labels_without_a_valid_pixel_give_no_number_and_no_nan(
    dmx, quick_bench, samples, tmp_path
):
    for path in samples.folder.glob("*.mask.png"):
        write_png(path, np.zeros((16, 16), np.uint8))
    for path in samples.folder.glob("*.depth.png"):
        write_png(path, np.zeros((16, 16), np.uint16))
    reports = [tmp_path / name for name in ("r.md", "r.csv")]
    arguments = [word for path in reports for word in ("--report", path)]
    code, printed, _ = dmx("bench", *quick_bench, *arguments)
    assert code == 0
    assert "no valid depth to judge" in " ".join(printed.split())
    code, document, _ = dmx("bench", *quick_bench, "--json")
    assert json.loads(document)["cells"][0]["accuracy"]["depth_frame"] is None
    for text in (printed, document, *(path.read_text(encoding="utf-8") for path in reports)):
        assert "nan" not in text.lower()


def test_without_onnx_a_report_has_no_roofline_and_says_so(dmx, quick_bench, tmp_path, monkeypatch):
    from depthmask.bench import graph

    monkeypatch.setattr(graph, "has_onnx", lambda: False)
    report = tmp_path / "r.html"
    code, _, errors = dmx("bench", *quick_bench, "--report", report)
    assert code == 0
    assert "The report has no roofline" in errors
    assert "slowest nodes" not in report.read_text(encoding="utf-8")


def test_an_interrupted_bench_without_a_round_leaves_nothing(
    dmx, quick_bench, tmp_path, monkeypatch
):
    from depthmask.bench.latency import LatencyMeter

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(LatencyMeter, "sample", interrupt)
    code, printed, errors = dmx("bench", *quick_bench, "--out", tmp_path / "bench.json")
    assert (code, printed, errors.strip()) == (130, "", "error: interrupted")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_evaluate_shows_the_model_beside_the_baseline(dmx, quick, side):
    code, printed, errors = dmx("evaluate", *quick, "--json")
    assert (code, errors) == (0, "")
    document = json.loads(printed)
    (one,) = document["results"]
    assert (str(one["height_px"]), one["runtime"]) == (side, "onnxruntime")
    assert one["accuracy"]["count"] == document["baseline"]["count"] == 3
    # Half of the ellipse of the baseline lies in the true upper half.
    assert 0.1 < document["baseline"]["mask"]["iou"] < 0.3


def test_evaluate_prints_a_table(dmx, quick):
    code, printed, _ = dmx("evaluate", *quick, "--limit", 1)
    assert code == 0
    for expected in ("IoU", "boundary IoU", "depth in the true mask", "looking", "1 images"):
        assert expected in printed


@pytest.mark.parametrize(
    ("arguments", "expected", "message"),
    [
        (["{folder}"], 3, "but it is neither"),
        (["{folder}/absent"], 3, "but it is neither"),
        (["--resolution", "77"], 2, "but got 77"),
        (["--data", "{folder}"], 3, "must hold images"),
    ],
)
def test_evaluate_refuses(dmx, quick, tmp_path, arguments, expected, message):
    code, printed, errors = dmx(
        "evaluate", *quick, *[text.format(folder=tmp_path) for text in arguments]
    )
    assert (code, printed) == (expected, "")
    assert errors.count("\n") == 1
    assert message in errors


def test_evaluate_takes_a_checkpoint(dmx, samples, tmp_path):
    pytest.importorskip("torch")
    from depthmask.chain import build
    from depthmask.checkpoint import save_checkpoint

    checkpoint = tmp_path / "checkpoint"
    save_checkpoint(build("lite", seed=0), checkpoint)
    arguments = [checkpoint, "--data", samples.folder, "--resolution", 64, "--limit", 1]
    arguments += ["--threads", 1]
    code, printed, _ = dmx("evaluate", *arguments, "--json")
    assert code == 0
    (one,) = json.loads(printed)["results"]
    assert (one["height_px"], one["runtime"], one["device"]) == (64, "torch", "cpu")
    code, _, errors = dmx("evaluate", *arguments, "--runtime", "openvino")
    assert code == 2
    assert "dmx export --checkpoint" in errors
