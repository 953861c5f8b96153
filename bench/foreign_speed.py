"""Somebody else's depth network as its file came, against the same network out of `dmx export`, in one run.

    python -m depthmask.bench.foreign_speed fastdepth.onnx --out foreign.json

The file is exported behind lite's mask, in fp32 and int8, and verified; of each graph the part from the
masked image to the depth is cut out, so that the mask network, the same in all, is in no time. Each part
takes turns with the unchanged file, on ONNX Runtime and OpenVINO, in an order drawn anew for each round. The
gain is the mean over the rounds of how many times faster the part's median is, with Student's interval.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import click
import msgspec
import numpy as np
import onnx_ir as ir

from depthmask.bench.machine import Machine, this_machine
from depthmask.bench.paired import compare_rounds
from depthmask.bench.script import run_script
from depthmask.bench.statistics import Recording
from depthmask.bundle import Precision, open_bundle
from depthmask.commands import options
from depthmask.errors import InputError
from depthmask.export.exporter import DEFAULT_RESOLUTION, export_chain
from depthmask.export.onnx_files import to_bytes
from depthmask.export.onnx_stage import OnnxStage
from depthmask.export.pieces import load_graph, stage_near
from depthmask.export.source import fixed_resolution, open_chain
from depthmask.frames import FloatArray, Resolution
from depthmask.output_files import write_output
from depthmask.runtimes.onnxruntime_runtime import import_onnxruntime, session_options
from depthmask.runtimes.openvino_runtime import compile_for_cpu, core
from depthmask.samples import open_samples

RUNTIMES = ("onnxruntime", "openvino")
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
_AS_IT_CAME = "as it came"

Call = Callable[[FloatArray], FloatArray]
Tell = Callable[[str], None]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run the depth network on one runtime."""

    runtime: str
    what: str
    """`as it came`, or the precision of our export."""
    p50_ms: float
    times_faster: float
    """Than the file as it came."""
    interval: tuple[float, float]
    """Of 95 %."""
    largest_difference: float
    """From the file as it came, on one masked photograph, as a share of its range."""
    samples_ms: tuple[float, ...]
    rounds: tuple[int, ...]


class ForeignSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """All of a run."""

    machine: Machine
    file: str
    threads: int
    rows: tuple[Row, ...]


def depth_part(model: ir.Model) -> ir.Model:
    """A chain's graph from the masked image to the depth, with one input.

    Raises:
        InputError: the depth network's nodes read more than one tensor of other stages.
    """
    stage = [node for node in model.graph if stage_near(node) == "depth"]
    inside = {value for node in stage for value in node.outputs}
    read = {
        _unrounded(value)
        for node in stage
        for value in node.inputs
        if value is not None and value not in inside and value.const_value is None
    }
    if len(read) != 1:
        names = ", ".join(sorted(str(value.name) for value in read))
        raise InputError(f"the depth network must read one tensor, but reads {names or 'none'}")
    graph = ir.convenience.extract(model.graph, list(read), ["depth"])
    return ir.Model(graph, ir_version=model.ir_version)


def _unrounded(value: ir.Value) -> ir.Value:
    """What int8 rounds: the rounding is the depth network's own."""
    producer = value.producer()
    while producer is not None and producer.op_type in ("QuantizeLinear", "DequantizeLinear"):
        source = producer.inputs[0]
        assert source is not None
        value, producer = source, source.producer()
    return value


def measure_foreign(
    file: Path,
    folder: Path,
    *,
    mask: str | None = None,
    precisions: Sequence[Precision] = PRECISIONS,
    threads: int = 2,
    rounds: int = 30,
    turn_seconds: float = 0.1,
    tell: Tell = lambda doing: None,
) -> ForeignSpeed:
    """Export a depth network and measure it beside its own file.

    Args:
        file: ONNX, of a fixed size or of any.
        folder: what is exported goes here; bundles that it holds are used again.
        mask: `pkg.mod:factory` of the mask network before it; by default lite's.
        precisions: of the exports.
        threads: of inference.
        rounds: in each, everything takes a turn.
        turn_seconds: of one turn; its first run is not counted.
        tell: told of every step.

    Raises:
        DepthmaskError: the file cannot be exported.
    """
    chain, weights = open_chain(mask=mask, depth_onnx=file)
    stage = chain.depth
    assert isinstance(stage, OnnxStage)
    resolution = fixed_resolution(chain) or DEFAULT_RESOLUTION
    bundles = {}
    for precision in precisions:
        tell(f"exporting in {precision}")
        out = folder / precision
        if out.is_dir():
            bundles[precision] = open_bundle(out)
            continue
        bundles[precision] = export_chain(
            chain,
            out,
            resolution=resolution,
            precision=precision,
            input="image",
            weights=weights,
            data=open_samples(),
        )
    image = _masked_photograph(resolution, stage.layout)
    expected = stage.run(image)
    rows: list[Row] = []
    for runtime in RUNTIMES:
        tell(f"measuring on {runtime}")
        calls = {_AS_IT_CAME: _open(to_bytes(stage.network.model), runtime, threads)}
        for precision, bundle in bundles.items():
            part = depth_part(load_graph(bundle.as_run_by(runtime, "cpu"), resolution))
            calls[precision] = _open(to_bytes(part), runtime, threads)
        recordings = _in_turns(calls, image, rounds, turn_seconds)
        rows += [
            _row(runtime, what, recordings, calls[what](image).reshape(expected.shape), expected)
            for what in calls
        ]
    return ForeignSpeed(machine=this_machine(), file=file.name, threads=threads, rows=tuple(rows))


def _masked_photograph(resolution: Resolution, layout: str) -> FloatArray:
    """The depth network's input, (1,3,H,W) or (1,H,W,3): a photograph in 0..1, its right half masked."""
    from depthmask.export.reference import reference_frames
    from depthmask.frames import Normalisation, to_network

    plain = Normalisation((0, 0, 0), (1, 1, 1))
    image_13HW = to_network(reference_frames()[0][None], resolution, plain)
    image_13HW[..., resolution.width // 2 :] = 0
    image = image_13HW if layout == "nchw" else image_13HW.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(image)


def _open(model: bytes, runtime: str, threads: int) -> Call:
    if runtime == "openvino":
        request = compile_for_cpu(core().read_model(model), threads).create_infer_request()
        return lambda image: request.infer([image])[0]
    ort = import_onnxruntime()
    settings = session_options(ort, threads)
    # One that spins while it waits for its turn takes the cores of the others.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image})[0]


def _in_turns(
    calls: dict[str, Call], image: FloatArray, rounds: int, turn_seconds: float
) -> dict[str, Recording]:
    generator = np.random.default_rng(0)
    names = list(calls)
    taken: dict[str, list[tuple[float, int]]] = {name: [] for name in names}
    for number in range(-1, rounds):  # the first round warms up
        for index in generator.permutation(len(names)):
            call = calls[names[index]]
            call(image)
            end = time.perf_counter() + turn_seconds
            while (started := time.perf_counter()) < end:
                call(image)
                if number >= 0:
                    taken[names[index]].append((1000 * (time.perf_counter() - started), number))
    return {
        name: Recording(np.array([ms for ms, _ in found]), np.array([n for _, n in found]))
        for name, found in taken.items()
    }


def _row(
    runtime: str,
    what: str,
    recordings: dict[str, Recording],
    found: FloatArray,
    expected: FloatArray,
) -> Row:
    mine = recordings[what]
    # Ours first: its change says how much slower the file as it came is.
    change = compare_rounds(mine, recordings[_AS_IT_CAME])
    ends = (change.lower or 0.0, change.upper or 0.0)
    assert mine.rounds is not None
    return Row(
        runtime=runtime,
        what=what,
        p50_ms=float(np.median(mine.samples_ms)),
        times_faster=1 + change.change,
        interval=(1 + ends[0], 1 + ends[1]),
        largest_difference=float(np.abs(found - expected).max() / np.ptp(expected)),
        samples_ms=tuple(mine.samples_ms.tolist()),
        rounds=tuple(mine.rounds.tolist()),
    )


def table(result: ForeignSpeed) -> str:
    """In Markdown."""
    lines = [
        f"{result.file}, {result.threads} threads, {result.machine.cpu}",
        "",
        "| runtime | network | median ms | times faster (95 %) | largest difference |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in result.rows:
        gain = f"{row.times_faster:.2f} ({row.interval[0]:.2f} to {row.interval[1]:.2f})"
        lines.append(
            f"| {row.runtime} | {row.what} | {row.p50_ms:.2f} |"
            f" {'' if row.what == _AS_IT_CAME else gain} | {row.largest_difference:.1e} |"
        )
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("file", type=options.PathType())
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(min=5), default=30, show_default=True)
@click.option("--precisions", type=options.NAMES, default=",".join(PRECISIONS), show_default=True)
@click.option("--work", type=options.PathType(), help="Keep what is exported here.")
@options.out_option("Write the result with every sample as JSON.")
def main(
    file: Path,
    threads: int,
    rounds: int,
    precisions: tuple[Precision, ...],
    work: Path | None,
    out: Path | None,
) -> None:
    r"""Measure somebody else's depth network beside our exports of it.

    \b
    Example:
      python -m depthmask.bench.foreign_speed fastdepth.onnx --out foreign.json
    """
    with ExitStack() as stack:
        status = stack.enter_context(options.messages.status("measuring"))
        if work is None:
            work = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="depthmask-foreign-"))
            )
        work.mkdir(parents=True, exist_ok=True)
        result = measure_foreign(
            file,
            work,
            precisions=precisions,
            threads=threads,
            rounds=rounds,
            tell=status.update,
        )
    if out is not None:
        write_output(out, msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    click.echo(table(result), nl=False)


if __name__ == "__main__":
    run_script(main, "foreign_speed")
