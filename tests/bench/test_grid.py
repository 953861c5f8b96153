from __future__ import annotations

import msgspec
import numpy as np
import pytest

from depthmask.bench import row, run_grid
from depthmask.bench.cells import OpenedCell, Request, open_pipeline, peak_memory
from depthmask.bench.data import open_data
from depthmask.bench.memory import PeakMemory
from depthmask.bundle import REFERENCE_FILE, Bundle
from depthmask.errors import CheckFailedError, InputError, UnavailableError, UsageError
from depthmask.export.reference import Reference
from depthmask.frames import Resolution, write_png
from depthmask.samples import open_samples

PEAK_BYTES = 5_000_000
QUICK = {
    "seconds": 0.0,
    "min_runs": 6,
    "rounds": 3,
    "max_warmup_seconds": 0.0,
    "measure_memory": lambda request: PeakMemory(host_bytes=PEAK_BYTES),
}
TWO = ("onnxruntime", "openvino")


class Opener:
    """Opens fakes and remembers them; `faults` are raised instead, by runtime."""

    def __init__(self, make, faults=None, offsets=None, device="cpu"):
        self.device = device
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
        return OpenedCell(pipeline, self.device)


def test_every_bundle_resolution_and_runtime_is_a_cell(fake_bundle, fake_pipeline, samples):
    bundles = [fake_bundle("one", (64, 128)), fake_bundle("two", (96,))]
    result = run_grid(
        bundles,
        samples=samples,
        runtimes=TWO,
        open_cell=Opener(fake_pipeline),
        threads=[2],
        **QUICK,
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
    bundle = fake_bundle(resolutions=(64,))
    bundle.path.mkdir()
    maps = (np.full((8, 8), 0.75, np.float32), np.full((8, 8), 2, np.float32))
    reference = Reference((np.zeros((16, 20, 3), np.uint8),), {Resolution(64, 64): (maps,)})
    with (bundle.path / REFERENCE_FILE).open("wb") as file:
        reference.save(file)
    first, second = run_grid(
        [bundle], samples=samples, runtimes=TWO, open_cell=opener, **QUICK
    ).cells
    assert first.accuracy.count == 3
    assert first.accuracy.mask.iou == 0.5
    assert first.depth.unaligned.abs_rel == 0
    assert second.depth.unaligned.abs_rel == pytest.approx(0.0625)
    assert (first.agreement.frames, first.agreement.mask_max_abs) == (1, 0)
    assert second.agreement.mask_max_abs == pytest.approx(0.125)
    assert second.agreement.depth_max_rel == pytest.approx(0.0625)


def test_cells_take_turns(fake_bundle, fake_pipeline, samples):
    opener = Opener(fake_pipeline)
    run_grid(
        [fake_bundle(resolutions=(64,))], samples=samples, runtimes=TWO, open_cell=opener, **QUICK
    )
    calls = QUICK["min_runs"] // QUICK["rounds"] + 1
    rounds = [opener.log[-calls * n :][: 2 * calls] for n in (6, 4, 2)]
    for log in rounds:
        assert sorted(log) == ["64 onnxruntime"] * calls + ["64 openvino"] * calls
        assert log[0] == log[calls - 1] != log[calls]


def test_each_round_has_an_order_of_its_own_drawn_by_the_seed(fake_bundle, fake_pipeline, samples):
    def orders(seed):
        doing = []
        run_grid(
            [fake_bundle(resolutions=(64,))],
            samples=samples,
            runtimes=TWO,
            threads=[1, 2],
            seed=seed,
            open_cell=Opener(fake_pipeline),
            progress=lambda text, done, total: doing.append(text),
            **{**QUICK, "rounds": 6},
        )
        turns = [text.partition(": ") for text in doing if text.startswith("round")]
        by_round = {}
        for number, _, name in turns:
            by_round.setdefault(number, []).append(name)
        return list(by_round.values())

    first = orders(3)
    assert all(sorted(order) == sorted(first[0]) for order in first)
    assert len({tuple(order) for order in first}) > 1
    assert orders(3) == first
    assert orders(4) != first


def test_threads_and_batches_are_cells_of_their_own(fake_bundle, fake_pipeline, samples):
    result = run_grid(
        [fake_bundle(resolutions=(64,))],
        samples=samples,
        runtimes=["onnxruntime"],
        threads=[1, 2],
        batches=[1, 4],
        open_cell=Opener(fake_pipeline),
        **QUICK,
    )
    found = [(cell.threads, cell.batch, cell.runner) for cell in result.cells]
    assert found == [
        (1, 1, "onnxruntime, 1 thread"),
        (1, 4, "onnxruntime, 1 thread, batch 4"),
        (2, 1, "onnxruntime, 2 threads"),
        (2, 4, "onnxruntime, 2 threads, batch 4"),
    ]
    one, four = (result.cells[k].latency for k in (0, 1))
    ratio = four.throughput_frames_per_s * four.mean_ms / one.throughput_frames_per_s / one.mean_ms
    assert ratio == pytest.approx(4, rel=0.01)
    # The outputs do not hang on threads and batches: they are judged once.
    assert len({id(cell.accuracy) for cell in result.cells}) == 1


def test_a_batch_needs_a_bundle_that_takes_one(fake_bundle):
    request = Request(fake_bundle(), Resolution(64, 64), "onnxruntime", "cpu", 1, batch=2)
    with pytest.raises(UnavailableError, match="--dynamic-batch"):
        open_pipeline(request)


def test_precisions_choose_among_the_bundles(fake_bundle, fake_pipeline, samples):
    full = fake_bundle("full", (64,))
    half = fake_bundle("half", (64,))
    half = Bundle(half.path, msgspec.structs.replace(half.manifest, precision="fp16"))
    settings = {"samples": samples, "runtimes": ["onnxruntime"], **QUICK}
    (cell,) = run_grid(
        [full, half], precisions=["fp16"], open_cell=Opener(fake_pipeline), **settings
    ).cells
    assert (cell.bundle, cell.precision) == ("half", "fp16")
    with pytest.raises(UsageError, match=r"in fp16 must be given .* Try `dmx export --fp16`"):
        run_grid([full], precisions=["fp16"], open_cell=Opener(fake_pipeline), **settings)


def test_a_budget_is_shared_by_the_cells(fake_bundle, fake_pipeline, samples):
    result = run_grid(
        [fake_bundle(resolutions=(64,))],
        samples=samples,
        runtimes=TWO,
        budget_seconds=2,
        open_cell=Opener(fake_pipeline),
        **{**QUICK, "seconds": 1000.0},
    )
    assert 0 < result.seconds_per_cell <= 1


def test_an_interrupted_benchmark_is_gone_on_with(fake_bundle, fake_pipeline, samples):
    settings = {"samples": samples, "runtimes": TWO, "seed": 5, **QUICK}
    bundle = fake_bundle(resolutions=(64,))
    seen = []

    def stop(result):
        seen.append(result)
        if result.rounds_done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_grid([bundle], open_cell=Opener(fake_pipeline), observe=stop, **settings)
    part = seen[-1]
    assert not part.complete
    opener = Opener(fake_pipeline)
    whole = run_grid([bundle], open_cell=opener, earlier=part, **settings)
    assert whole.complete
    for before, after in zip(part.cells, whole.cells, strict=True):
        assert after.latency.samples_ms[: before.latency.runs] == before.latency.samples_ms
        assert len(after.latency.turns) == 3
        assert len(after.latency.stage_samples_ms["inference"]) == after.latency.runs
        assert after.accuracy == before.accuracy
    with pytest.raises(UsageError, match="its seed differ: 5, now 6"):
        run_grid([bundle], open_cell=opener, earlier=part, **{**settings, "seed": 6})
    with pytest.raises(UsageError, match="its cells differ"):
        run_grid([bundle], open_cell=opener, earlier=part, **{**settings, "runtimes": TWO[:1]})


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
        **{**QUICK, "measure_memory": lambda request: PeakMemory()},
    ).cells
    assert (cell.status, cell.peak_memory_bytes) == ("ok", None)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_gpu_is_asked_where_a_cell_runs_on_it(
    monkeypatch, fake_bundle, fake_pipeline, fake_gpu, samples, device
):
    monkeypatch.setattr(row, "open_gpu", lambda: fake_gpu)
    found = PeakMemory(host_bytes=PEAK_BYTES, device_bytes=7)
    (cell,) = run_grid(
        [fake_bundle(resolutions=(64,))],
        samples=samples,
        runtimes=["onnxruntime"],
        open_cell=Opener(fake_pipeline, device=device),
        **{**QUICK, "measure_memory": lambda request: found},
    ).cells
    assert (cell.device, cell.peak_device_memory_bytes) == (device, 7)
    heat_c = [
        turn.conditions.gpu and turn.conditions.gpu.temperature_c for turn in cell.latency.turns
    ]
    assert heat_c == [54 if device == "cuda" else None] * 3


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
    assert peak_memory(request) == PeakMemory()


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
        ({"budget_seconds": -1.0}, "budget_seconds must be 0 or more"),
        ({"batches": [0]}, "a batch must be 1 or more"),
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


def test_a_video_gives_flicker_once_for_all_threads(fake_bundle, fake_pipeline, clip_path):
    opener = Opener(fake_pipeline)
    result = run_grid(
        [fake_bundle(resolutions=(64,))],
        samples=open_data(clip_path, limit=5),
        runtimes=["onnxruntime"],
        threads=[1, 2],
        open_cell=opener,
        **QUICK,
    )
    first, second = result.cells
    assert (first.flicker.data, first.flicker.frames, first.flicker.pairs) == ("clip.mkv", 5, 4)
    assert first.flicker is second.flicker
    assert first.flicker.mask == pytest.approx(0, abs=1e-6)
    assert first.accuracy is None
    assert (result.data, result.frame_sizes) == ("clip.mkv", ("48x64",))
    assert result.decode_p50_ms > 0


def test_a_damaged_video_ends_the_benchmark(fake_bundle, fake_pipeline, clip_path):
    content = clip_path.read_bytes()
    clip_path.write_bytes(content[: len(content) // 3])
    with pytest.raises(InputError, match=r"cut short or damaged after \d+ frames. Try --limit"):
        run_grid(
            [fake_bundle()],
            samples=open_data(clip_path),
            runtimes=TWO,
            open_cell=Opener(fake_pipeline),
            **QUICK,
        )


def test_frames_arrive_at_each_rate_after_the_rounds(fake_bundle, fake_pipeline, samples):
    doing = []
    result = run_grid(
        [fake_bundle(resolutions=(64,))],
        samples=samples,
        runtimes=TWO,
        arrivals_per_s=[500, 1000],
        open_cell=Opener(fake_pipeline),
        progress=lambda text, done, total: doing.append(text),
        **QUICK,
    )
    assert result.complete
    for cell in result.cells:
        assert [one.arrivals_per_s for one in cell.load] == [500, 1000]
        assert all(one.done == one.offered >= QUICK["min_runs"] for one in cell.load)
    assert doing[-5:-1] == [
        f"{rate} frames a second: fake 64 {runtime}" for rate in (500, 1000) for runtime in TWO
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arrivals_per_s": [10.0], "batches": [1, 2]}, "with a batch of 1"),
        ({"arrivals_per_s": [0.0]}, "must be above 0"),
    ],
)
def test_arrivals_that_cannot_be_measured_are_refused(fake_bundle, samples, settings, message):
    with pytest.raises(UsageError, match=message):
        run_grid([fake_bundle()], samples=samples, **settings)


def test_a_benchmark_interrupted_under_load_goes_on_with_the_missing_rates(
    fake_bundle, fake_pipeline, samples
):
    settings = {"samples": samples, "runtimes": ["onnxruntime"], **QUICK}
    bundle = fake_bundle(resolutions=(64,))
    seen = []

    def stop(result):
        seen.append(result)
        if result.cells[0].load:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_grid(
            [bundle],
            open_cell=Opener(fake_pipeline),
            arrivals_per_s=[500.0, 1000.0],
            observe=stop,
            **settings,
        )
    part = seen[-1]
    assert (part.rounds_done, part.complete) == (3, False)
    again = {"open_cell": Opener(fake_pipeline), "earlier": part, **settings}
    whole = run_grid([bundle], arrivals_per_s=[500.0, 1000.0], **again)
    assert whole.complete
    assert whole.cells[0].load[0] == part.cells[0].load[0]
    with pytest.raises(UsageError, match="its arrivals per second differ"):
        run_grid([bundle], arrivals_per_s=[500.0], **again)
