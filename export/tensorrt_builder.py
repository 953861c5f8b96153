"""From an ONNX graph to a TensorRT engine; TensorRT itself is handed in.

`trt` is the module `tensorrt` (10 or 11) or `tensorrt_rtx`: one code path for all, whose every name
`tests/export/test_tensorrt_api.py` looks up in each. Precision is the graph's: the network is strongly typed,
and TF32 is off. Only TensorRT-RTX builds without a GPU, for architectures by name.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthmask.engine import Compatibility, LayerRecord, ShapeRange
from depthmask.errors import CheckFailedError, InputError, UsageError
from depthmask.output_files import write_output
from depthmask.tensorrt_module import collecting_log, one_line

Progress = Callable[[str], None]
RangeOf = Callable[[str, tuple[int, ...]], ShapeRange]
"""From an input's name and shape, -1 where it is open, to what the engine shall take."""

_MIB = 1 << 20


@dataclass(frozen=True)
class BuildFlags:
    """What only TensorRT has; TensorRT-RTX ignores or refuses each."""

    timing_cache: Path | None = None
    """What earlier builds measured of kernels, and where to keep it; it need not exist."""
    version_compatible: bool = False
    hardware_compatibility: Compatibility = "none"
    strip_weights: bool = False


@dataclass(frozen=True)
class Built:
    """An engine in memory."""

    plan: memoryview
    inputs: dict[str, ShapeRange]
    warnings: tuple[str, ...]
    build_s: float
    layers: tuple[LayerRecord, ...]
    """Of the network, in the order of execution."""


def build(
    trt: Any,  # noqa: ANN401  (of three modules, none has types)
    model: Path,
    range_of: RangeOf,
    *,
    product: str,
    architectures: Sequence[str] = (),
    workspace_mib: int | None = None,
    level: int = 3,
    flags: BuildFlags = BuildFlags(),
    progress: Progress = lambda phase: None,
) -> Built:
    """Build an engine from an ONNX file.

    Args:
        trt: `tensorrt` or `tensorrt_rtx`.
        model: the file; weights beside it are found.
        range_of: the shapes of each input that has open sides.
        product: what to call `trt` in messages.
        architectures: as `sm89`, TensorRT-RTX only; none for the GPU that is here.
        workspace_mib: the most scratch memory that a layer may take; None: what the GPU has.
        level: 0 to 5; higher builds longer and may run faster.
        flags: TensorRT only.
        progress: told of each phase of the build; KeyboardInterrupt stops it at the next step.

    Raises:
        InputError: the graph cannot be parsed, with the node; the timing cache is of another GPU.
        OutputError: the timing cache cannot be written.
        CheckFailedError: it cannot be built, with the node where the builder tells.
        UsageError: `trt` does not know an architecture.
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    started = time.perf_counter()
    log = collecting_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(
        1
        << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)  # its value is not the same in all
    )
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(model)):
        raise InputError(f"{product} cannot take {model.name}: {_parser_errors(parser)}")

    config = builder.create_builder_config()
    config.builder_optimization_level = level
    config.clear_flag(trt.BuilderFlag.TF32)  # left alone, it rounds what fp32 multiplies to 10 bits
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib * _MIB)
    if architectures:
        _set_architectures(trt, config, architectures)
    _set_flags(trt, config, flags)
    if flags.timing_cache is not None:
        _read_timing_cache(config, flags.timing_cache, product)
    ranges = _set_profile(builder, network, config, range_of)

    with _interrupts_noted() as interrupted:
        config.progress_monitor = _monitor(trt, progress, interrupted)
        plan = builder.build_serialized_network(network, config)
    if interrupted.is_set():
        raise KeyboardInterrupt
    if plan is None:
        raise CheckFailedError(
            f"{product} cannot build {model.name}: {_build_error(log.errors, _layer_names(network))}"
        )
    if flags.timing_cache is not None:
        write_output(flags.timing_cache, bytes(config.get_timing_cache().serialize()))
    # The memory is the plan's own, and a view keeps its owner alive.
    return Built(
        memoryview(plan),
        ranges,
        tuple(log.warnings),
        time.perf_counter() - started,
        tuple(_layers(network)),
    )


def inspect_engine(trt: Any, plan: bytes, product: str) -> str:  # noqa: ANN401
    """What TensorRT's inspector says of an engine's layers, as JSON; needs the GPU that the engine is for.

    Raises:
        CheckFailedError: the engine cannot be loaded.
    """
    log = collecting_log(trt)
    runtime = trt.Runtime(log)
    runtime.engine_host_code_allowed = True  # it was built here, a moment ago
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise CheckFailedError(
            f"{product} cannot load what it built: {_build_error(log.errors, [])}"
        )
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def architecture_names(trt: Any) -> tuple[str, ...]:  # noqa: ANN401
    """The architectures that an engine can be built for without one, as `sm89`."""
    names = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    return tuple(sorted((name.lower() for name in names), key=lambda name: int(name[2:])))


def _set_architectures(trt: Any, config: Any, architectures: Sequence[str]) -> None:  # noqa: ANN401
    known = architecture_names(trt)
    for name in architectures:
        if name not in known:
            raise UsageError(f"a GPU must be one of {', '.join(known)}, but got {name!r}")
    config.num_compute_capabilities = len(architectures)
    for index, name in enumerate(architectures):
        config.set_compute_capability(getattr(trt.ComputeCapability, name.upper()), index)


def _set_flags(trt: Any, config: Any, flags: BuildFlags) -> None:  # noqa: ANN401
    if flags.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if flags.strip_weights:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        # Only the weights that it was built with will come back, so it may be optimised for those.
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    level = trt.HardwareCompatibilityLevel
    try:
        if flags.hardware_compatibility == "ampere-plus":
            config.hardware_compatibility_level = level.AMPERE_PLUS
        elif flags.hardware_compatibility == "same-compute-capability":
            config.hardware_compatibility_level = level.SAME_COMPUTE_CAPABILITY
    except AttributeError as error:  # of a TensorRT older than those that the tests know
        raise UsageError(
            f"--hardware-compatible {flags.hardware_compatibility} needs a newer TensorRT than"
            f" {trt.__version__}"
        ) from error


def _read_timing_cache(config: Any, path: Path, product: str) -> None:  # noqa: ANN401
    """Of another GPU or TensorRT it would be ignored, or make the builder choose by foreign times."""
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise InputError(
            f"{path} must be a timing cache of this GPU and this {product}, but is none. Try another file"
            " with --timing-cache; one that does not exist is made"
        )


def _set_profile(
    builder: Any,  # noqa: ANN401
    network: Any,  # noqa: ANN401
    config: Any,  # noqa: ANN401
    range_of: RangeOf,
) -> dict[str, ShapeRange]:
    """One optimisation profile for all inputs; a graph without open sides has none."""
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    shapes = {tensor.name: tuple(tensor.shape) for tensor in tensors}
    if not any(-1 in shape for shape in shapes.values()):
        return {name: ShapeRange(shape, shape, shape) for name, shape in shapes.items()}
    profile = builder.create_optimization_profile()
    ranges = {name: range_of(name, shape) for name, shape in shapes.items()}
    for name, found in ranges.items():
        if not found.holds(found.best):
            raise UsageError(
                f"the best shape of {name} must lie within {found.smallest} to {found.largest}, but is"
                f" {found.best}"
            )
        profile.set_shape(name, found.smallest, found.best, found.largest)
    if config.add_optimization_profile(profile) < 0:
        raise CheckFailedError(f"the shapes of the inputs do not fit the graph: {ranges}")
    return ranges


def _parser_errors(parser: Any) -> str:  # noqa: ANN401
    """The first error of the parser, and how many others there are."""
    count = parser.num_errors
    if count == 0:
        return "it is no ONNX file, or a damaged one"
    error = parser.get_error(0)
    where = f"node {error.node_name()} ({error.node_operator()}): " if error.node_name() else ""
    others = f" (and {count - 1} more)" if count > 1 else ""
    return f"{where}{one_line(error.desc())}{others}"


def _layers(network: Any) -> Iterator[LayerRecord]:  # noqa: ANN401
    """Strongly typed: what a layer gives has the type that it computes in, and no builder changes that."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
        yield LayerRecord(
            name=layer.name,
            kind=layer.type.name,
            precisions=tuple(tensor.dtype.name for tensor in outputs),
        )


def _layer_names(network: Any) -> list[str]:  # noqa: ANN401
    """The parser names layers after their nodes."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return [layer.name for layer in layers]


def _build_error(errors: Sequence[str], names: Sequence[str]) -> str:
    """The first error that names a node, else the first."""
    for error in errors:
        # The longest name: one may be the beginning of another.
        for name in sorted(names, key=len, reverse=True):
            if name and name in error:
                return f"node {name}: {one_line(error)}"
    return one_line(errors[0]) if errors else "the builder gave no reason"


def _monitor(trt: Any, progress: Progress, interrupted: threading.Event) -> Any:  # noqa: ANN401
    """Tells of the phases, by their outermost three; the builder calls it from threads of its own."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.depths: dict[str | None, int] = {None: 0, "": 0}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.depths[phase_name] = depth = self.depths.get(parent_phase, 0) + 1
            if depth <= 3:
                progress(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return not interrupted.is_set()

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()


@contextmanager
def _interrupts_noted() -> Iterator[threading.Event]:
    """Ctrl-C is noted, not raised: an exception in a callback would go through TensorRT's own frames."""
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: noted.set())
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
