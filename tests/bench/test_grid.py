from __future__ import annotations

import msgspec
import numpy as np
import pytest

from depthmask.bench import grid, run_grid
from depthmask.bench.grid import OpenedCell, Request
from depthmask.bundle import Bundle
from depthmask.errors import CheckFailedError, InputError, UnavailableError, UsageError
from depthmask.frames import Resolution, write_png
from depthmask.samples import open_samples

PEAK_BYTES = 5_000_000
QUICK = {
    "seconds": 0.0,
    "min_runs": 6,
    "rounds": 3,
    "max_warmup_seconds": 0.0,
    "measure_memory": lambda request: PEAK_BYTES,
}
TWO = ("onnxruntime", "openvino")


class Opener:
    """Opens fakes and remembers them; `faults` are raised instead, by runtime."""

    def __init__(self, make, faults=None, offsets=None):
        self.make = make
        self.faults = faults or {}
        self.offsets = offsets or {}
        self.opened = []
        self.log = []

    def __call__(self, request):
        if request.runtime in self.faults:
            raise self.faults[request.runtime]
        pipeline = self.make(
            name=f"{request.resolution} {request.runtime}",
            offset=self.offsets.get(request.runtime, 0.0),
            log=self.log,
        )
        self.opened.append(pipeline)
        return OpenedCell(pipeline, "cpu")


def test_every_bundle_resolution_and_runtime_is_a_cell(fake_bundle, fake_pipeline, samples):
    bundles = [fake_bundle("one", (64, 128)), fake_bundle("two", (96,))]
    result = run_grid(
        bundles, samples=samples, runtimes=TWO, open_cell=Opener(fake_pipeline), threads=2, **QUICK
    )
    found = [(cell.bundle, str(cell.resolution), cell.runtime) for cell in result.cells]
    assert found == [
        (bundle, side, runtime)
        for bundle, side in (("one", "64"), ("one", "128"), ("two", "96"))
        for runtime in TWO
    ]
    assert all(cell.status == "ok" and cell.threads == 2 for cell in result.cells)
    assert all(cell.latency.runs >= 6 for cell in result.cells)
    assert (result.data, result.frame_sizes) == ("data", ("16x16",))
    assert not result.problems
    assert {cell.peak_memory_bytes for cell in result.cells} == {PEAK_BYTES}


def test_accuracy_and_agreement(fake_bundle, fake_pipeline, samples):
    opener = Opener(fake_pipeline, offsets={"openvino": 0.125})
    first, second = run_grid(
        [fake_bundle(resolutions=(64,))], samples=samples, runtimes=TWO, open_cell=opener, **QUICK
    ).cells
    assert first.accuracy.count == 3
    assert first.accuracy.mask.iou == 0.5
    assert first.depth.unaligned.abs_rel == 0
    assert second.depth.unaligned.abs_rel == pytest.approx(0.0625)
    assert first.agreement is None
    assert second.agreement.reference_runtime == "onnxruntime"
    assert second.agreement.mask_max_abs == pytest.approx(0.125)
    assert second.agreement.depth_max_rel == pytest.approx(0.0625)


def test_cells_take_turns(fake_bundle, fake_pipeline, samples):
    opener = Opener(fake_pipeline)
    run_grid(
        [fake_bundle(resolutions=(64,))], samples=samples, runtimes=TWO, open_cell=opener, **QUICK
    )
    turns = [name for i, name in enumerate(opener.log) if i == 0 or opener.log[i - 1] != name]
    assert turns[-6:] == ["64 onnxruntime", "64 openvino"] * 3


def test_a_cell_that_fails_says_why_and_the_others_go_on(fake_bundle, fake_pipeline, samples):
    faults = {
        "openvino": UnavailableError("it is not installed"),
        "torch": RuntimeError("out of\nmemory"),
    }
    result = run_grid(
        [fake_bundle(resolutions=(64,))],
        samples=samples,
        runtimes=("openvino", "torch", "onnxruntime"),
        open_cell=Opener(fake_pipeline, faults),
        **QUICK,
    )
    missing, broken, good = result.cells
    assert (missing.status, missing.problem) == ("unavailable", "it is not installed")
    assert (broken.status, broken.problem) == ("failed", "RuntimeError: out of memory")
    assert missing.latency is missing.accuracy is broken.latency is None
    assert good.status == "ok"
    assert good.agreement is None
    assert result.problems == (missing, broken)


def test_a_cell_that_fails_late_has_no_numbers(fake_bundle, fake_pipeline, samples):
    class Dying(fake_pipeline):
        def __call__(self, frame_HW3):
            if self.calls > 20:
                raise CheckFailedError("the depth must be finite")
            return super().__call__(frame_HW3)

    (cell,) = run_grid(
        [fake_bundle(resolutions=(64,))],
        samples=samples,
        runtimes=["onnxruntime"],
        open_cell=Opener(Dying),
        **{**QUICK, "min_runs": 200},
    ).cells
    assert (cell.status, cell.problem) == ("failed", "the depth must be finite")
    assert cell.latency is cell.accuracy is cell.peak_memory_bytes is None


def test_unknown_memory_fails_no_cell(fake_bundle, fake_pipeline, samples):
    (cell,) = run_grid(
        [fake_bundle(resolutions=(64,))],
        samples=samples,
        runtimes=["onnxruntime"],
        open_cell=Opener(fake_pipeline),
        **{**QUICK, "measure_memory": lambda request: None},
    ).cells
    assert (cell.status, cell.peak_memory_bytes) == ("ok", None)


def test_memory_is_measured_before_anything_is_timed_in_turns(fake_bundle, fake_pipeline, samples):
    doing = []
    run_grid(
        [fake_bundle()],
        samples=samples,
        runtimes=TWO,
        open_cell=Opener(fake_pipeline),
        progress=lambda text, done, total: doing.append(text.split()[0]),
        **QUICK,
    )
    assert doing.count("memory") == 4
    assert "memory" not in doing[doing.index("warming") :]


def test_a_memory_process_that_fails_gives_none(fake_bundle):
    request = Request(fake_bundle("absent"), Resolution(64, 64), "onnxruntime", "cpu", 1)
    assert grid._peak_memory_bytes(request) is None


def test_the_precision_is_what_ran(fake_bundle, fake_pipeline, samples):
    bundle = fake_bundle(resolutions=(64,))
    half = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, precision="fp16"))
    cells = run_grid(
        [half],
        samples=samples,
        runtimes=("onnxruntime", "torch"),
        open_cell=Opener(fake_pipeline),
        **QUICK,
    ).cells
    assert [cell.precision for cell in cells] == ["fp16", "fp32"]


def test_an_unreadable_label_ends_the_benchmark(fake_bundle, fake_pipeline, samples):
    (samples.folder / "1.mask.png").write_bytes(b"damaged")
    opener = Opener(fake_pipeline)
    with pytest.raises(InputError, match=r"1\.mask\.png must be a whole PNG"):
        run_grid([fake_bundle()], samples=samples, runtimes=TWO, open_cell=opener, **QUICK)
    assert all(pipeline.closed == 1 for pipeline in opener.opened)


def test_pipelines_are_closed_even_when_interrupted(fake_bundle, fake_pipeline, samples):
    opener = Opener(fake_pipeline)

    def interrupt(doing, done, total):
        if doing.startswith("round 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_grid([fake_bundle()], samples=samples, open_cell=opener, progress=interrupt, **QUICK)
    assert opener.opened
    assert all(pipeline.closed == 1 for pipeline in opener.opened)


def test_photographs_give_latency_only(fake_bundle, fake_pipeline, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    write_png(folder / "a.png", np.zeros((9, 12, 3), np.uint8))
    (cell,) = run_grid(
        [fake_bundle(resolutions=(64,))],
        samples=open_samples(folder),
        runtimes=["onnxruntime"],
        open_cell=Opener(fake_pipeline),
        **QUICK,
    ).cells
    assert cell.latency.runs >= 6
    assert cell.accuracy is None


def test_timed_frames_can_be_stretched(fake_bundle, fake_pipeline, samples):
    result = run_grid(
        [fake_bundle(resolutions=(64,))],
        samples=samples,
        runtimes=["onnxruntime"],
        open_cell=Opener(fake_pipeline),
        frame_size=Resolution(48, 64),
        **QUICK,
    )
    assert result.frame_sizes == ("48x64",)


def test_progress_ends_at_the_total(fake_bundle, fake_pipeline, samples):
    seen = []
    run_grid(
        [fake_bundle()],
        samples=samples,
        runtimes=["onnxruntime"],
        open_cell=Opener(fake_pipeline),
        progress=lambda doing, done, total: seen.append((done, total)),
        **QUICK,
    )
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == 2 * (4 + QUICK["rounds"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolutions": [Resolution(96, 96)]}, r"holds \(64, 128\), but got 96"),
        ({"runtimes": ["tensorflow"]}, "a runtime must be one of .* but got 'tensorflow'"),
        ({"min_runs": 0}, "min_runs must be 1 or more"),
        ({"rounds": 0}, "rounds must be 1 or more"),
        ({"limit": 0}, "limit must be 1 or more"),
        ({"seconds": -1.0}, "seconds must be 0 or more"),
        ({"seconds": float("nan")}, "seconds must be 0 or more"),
    ],
)
def test_unusable_settings_are_refused_before_any_work(
    fake_bundle, fake_pipeline, samples, settings, message
):
    opener = Opener(fake_pipeline)
    with pytest.raises(UsageError, match=message):
        run_grid([fake_bundle()], samples=samples, open_cell=opener, **settings)
    assert not opener.opened


def test_a_grid_of_nothing_is_refused(samples):
    with pytest.raises(UsageError, match="1 or more bundles"):
        run_grid([], samples=samples)
