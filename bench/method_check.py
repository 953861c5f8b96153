"""Whether the harness can be believed: what it costs itself, and that it agrees with other meters.

    python -m depthmask.bench.method_check --json

The same graph on the same frame with the same threads: our inference stage against plain loops around
ONNX Runtime and OpenVINO, and against OpenVINO's own `benchmark_app`, in turns. Medians of the rounds'
ratios; 1 is agreement. `benchmark_app` reads the request's own clock, which leaves out the call from Python
and the copies of frame and maps; how much that is stands beside it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import msgspec
import numpy as np

from depthmask.accuracy import accuracy
from depthmask.bench.benchmark_app import benchmark_app_ms, find_benchmark_app
from depthmask.bench.conditions import ConditionsMeter, between, spoilt_by
from depthmask.bench.latency import LatencyMeter, measure
from depthmask.bench.machine import Machine, this_machine
from depthmask.bundle import Bundle, open_bundle
from depthmask.commands import options
from depthmask.frames import Resolution, UInt8Array
from depthmask.pipeline import Pipeline, Prediction
from depthmask.runtimes.openvino_runtime import compile_for_cpu
from depthmask.samples import open_samples

_NULL_CALLS = 20_000
_ROUNDS = 5


class MethodCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What the harness adds to a call, and its medians over those of other meters."""

    machine: Machine
    bundle: str
    resolution: str
    threads: int
    rounds: int
    harness_us_per_call: float
    ours_over_plain_onnxruntime: float
    ours_over_plain_openvino: float
    ours_over_benchmark_app: float
    request_over_benchmark_app: float
    """The plain loop's, by the same clock of the request that `benchmark_app` reads."""
    onnxruntime_ms: float
    openvino_ms: float
    accuracy_over_predicting: float
    """What `accuracy` takes over reading and predicting the same images alone."""
    spoilt_by: tuple[str, ...]


class _Nothing:
    """A pipeline that does nothing, as fast as one can."""

    open_ms = 0.0

    def __init__(self) -> None:
        empty = np.zeros((1, 1), np.float32)
        stages = {"preprocess": 0.0, "inference": 0.0, "postprocess": 0.0}
        self._prediction = Prediction(empty, empty, stages)

    def __call__(self, frame_HW3: UInt8Array) -> Prediction:
        return self._prediction


def harness_us_per_call() -> float:
    """What the meter adds to each call, in microseconds."""
    pipeline = _Nothing()
    frame_HW3 = np.zeros((1, 1, 3), np.uint8)
    meter = LatencyMeter(pipeline, [frame_HW3])
    meter.first()
    started = time.perf_counter()
    meter.sample(0, _NULL_CALLS)
    with_meter_s = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(_NULL_CALLS):
        pipeline(frame_HW3)
    return 1e6 * (with_meter_s - (time.perf_counter() - started)) / _NULL_CALLS


def check_method(
    bundle: Bundle, resolution: Resolution, threads: int, seconds: float, rounds: int = _ROUNDS
) -> MethodCheck:
    """Compare the meters on one graph.

    Raises:
        UnavailableError: OpenVINO's benchmark_app or a runtime is not installed.
    """
    app = find_benchmark_app()
    graph = bundle.model_path_for("openvino", "cpu", resolution)
    frame_HW3 = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    shape = ("-data_shape", f"frame[1,{frame_HW3.shape[0]},{frame_HW3.shape[1]},3]")
    conditions = ConditionsMeter()
    before = conditions.now()
    found: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for runtime in ("onnxruntime", "openvino"):
            with Pipeline.open(
                bundle.path, runtime, "cpu", threads, resolution=resolution
            ) as opened:
                result = measure(opened, [frame_HW3], min_seconds=seconds)
                found[runtime].append(result.stage_p50_ms["inference"])
        plain_ms = _plain_onnxruntime_ms(bundle, resolution, threads, frame_HW3, seconds)
        found["plain onnxruntime"].append(plain_ms)
        plain_ms, request_ms = _plain_openvino_ms(bundle, resolution, threads, frame_HW3, seconds)
        found["plain openvino"].append(plain_ms)
        found["request"].append(request_ms)
        found["app"].append(benchmark_app_ms(app, graph, threads, seconds, shape))
    return MethodCheck(
        machine=this_machine(),
        bundle=bundle.path.name,
        resolution=str(resolution),
        threads=threads,
        rounds=rounds,
        harness_us_per_call=harness_us_per_call(),
        ours_over_plain_onnxruntime=_ratio(found["onnxruntime"], found["plain onnxruntime"]),
        ours_over_plain_openvino=_ratio(found["openvino"], found["plain openvino"]),
        ours_over_benchmark_app=_ratio(found["openvino"], found["app"]),
        request_over_benchmark_app=_ratio(found["request"], found["app"]),
        onnxruntime_ms=median(found["onnxruntime"]),
        openvino_ms=median(found["openvino"]),
        accuracy_over_predicting=accuracy_over_predicting(bundle, resolution, threads, rounds),
        spoilt_by=spoilt_by([between(before, conditions.now())]),
    )


def accuracy_over_predicting(
    bundle: Bundle, resolution: Resolution, threads: int, rounds: int = _ROUNDS
) -> float:
    """How long judging the shipped samples takes, over reading them and predicting alone."""
    samples = open_samples()
    judged_s, predicted_s = [], []
    with Pipeline.open(bundle.path, "auto", "cpu", threads, resolution=resolution) as pipeline:
        for _ in range(rounds):
            started = time.perf_counter()
            for sample in samples:
                pipeline(sample.image_HW3)
            predicted = time.perf_counter()
            accuracy(pipeline, samples)
            judged_s.append(time.perf_counter() - predicted)
            predicted_s.append(predicted - started)
    return _ratio(judged_s, predicted_s)


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return median(one / other for one, other in zip(ours, theirs, strict=True))


def _plain_onnxruntime_ms(
    bundle: Bundle, resolution: Resolution, threads: int, frame_HW3: UInt8Array, seconds: float
) -> float:
    """The median of a loop as anyone would write it."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    path = bundle.model_path_for("onnxruntime", "cpu", resolution)
    session = onnxruntime.InferenceSession(str(path), settings, ["CPUExecutionProvider"])
    inputs = {"frame": frame_HW3[None]}
    return _loop_ms(lambda: session.run(None, inputs), seconds)


def _plain_openvino_ms(
    bundle: Bundle, resolution: Resolution, threads: int, frame_HW3: UInt8Array, seconds: float
) -> tuple[float, float]:
    """The median of such a loop, and that of the request's own clock."""
    path = bundle.model_path_for("openvino", "cpu", resolution)
    compiled = compile_for_cpu(str(path), threads)
    request = compiled.create_infer_request()
    inputs = {"frame": frame_HW3[None]}
    request_ms: list[float] = []

    def call() -> None:
        request.infer(inputs)
        request_ms.append(request.latency)

    return _loop_ms(call, seconds), median(request_ms)


def _loop_ms(call: Callable[[], object], seconds: float) -> float:
    """The median of a call, ten times warmed up."""
    for _ in range(10):
        call()
    end = time.perf_counter() + seconds
    times_ms: list[float] = []
    while not times_ms or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        times_ms.append(1000 * (time.perf_counter() - started))
    return median(times_ms)


@click.command()
@click.argument("bundle", type=options.PathType(), required=False)
@options.resolutions_option
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.5), default=5.0, show_default=True)
@options.json_option
def main(
    bundle: Path | None,
    resolutions: tuple[Resolution, ...] | None,
    threads: int,
    seconds: float,
    as_json: bool,
) -> None:
    """Check what the harness costs, and that it agrees with other meters."""
    opened = open_bundle(bundle)
    resolution = opened.graph(resolutions[0] if resolutions else None).resolution
    found = check_method(opened, resolution, threads, seconds)
    if as_json:
        options.print_json(msgspec.to_builtins(found))
        return
    click.echo(
        f"{found.machine.summary}; {found.bundle} at {found.resolution}, {found.threads} threads\n"
        f"harness: {found.harness_us_per_call:.2f} us a call\n"
        f"onnxruntime: {found.onnxruntime_ms:.3f} ms, {found.ours_over_plain_onnxruntime:.4f} times a"
        f" plain loop\n"
        f"openvino: {found.openvino_ms:.3f} ms, {found.ours_over_plain_openvino:.4f} times a plain loop,"
        f" {found.ours_over_benchmark_app:.4f} times benchmark_app; by the request's own clock"
        f" {found.request_over_benchmark_app:.4f} times\n"
        f"accuracy over the shipped samples: {found.accuracy_over_predicting:.3f} times reading and"
        " predicting them"
    )
    if found.spoilt_by:
        click.echo(f"no fair numbers: {'; '.join(found.spoilt_by)}")


if __name__ == "__main__":
    main()
