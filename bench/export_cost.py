"""What an export costs, and what running its graph does: seconds and memory, each in a process of its own.

    python -m depthmask.bench.export_cost export CHAIN SIZE PRECISION TUNE FOLDER
    python -m depthmask.bench.export_cost run GRAPH SIZE RUNTIME THREADS

print JSON. A CHAIN is a preset (its shipped weights, or untrained ones of seed 0) or an ONNX file, which
becomes the depth network behind lite's mask. A GRAPH is an ONNX file or a bundle's folder. Memory is told
above the imports: what the process holds once every module is loaded that it will load, and no more.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from depthmask.bench.image_runs import bundle_run, file_run
from depthmask.bench.memory import peak_rss_bytes
from depthmask.bundle import Precision, open_bundle
from depthmask.errors import UnavailableError
from depthmask.frames import Resolution
from depthmask.presets import shipped_checkpoint

if TYPE_CHECKING:
    from depthmask.chain import MaskDepthChain

_CALLS = 4
_ALLOWED_TIMES_WEIGHTS, _ALLOWED_BESIDE_BYTES = 4, 300_000_000
_IMPORT = "\n".join(
    (
        "import sys",
        "from depthmask.bench import export_cost",
        "print(export_cost.imports_bytes(sys.stdin.read().split()))",
    )
)


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """Of one process."""

    peak_bytes: int
    imports_bytes: int
    """Of a process that loads the same modules and does nothing else."""

    @property
    def above_imports_bytes(self) -> int:
        """What the work itself took."""
        return self.peak_bytes - self.imports_bytes


class ExportCost(msgspec.Struct, frozen=True, kw_only=True):
    """Of one export with its verification."""

    seconds: float
    """From the start of the process to its end."""
    phases_s: dict[str, float]
    """In the order in which they ran; without the imports."""
    weights_bytes: int
    """In float32."""
    memory: Peak

    @property
    def allowed_bytes(self) -> int:
        """What issue 5 allows above the imports: four times the weights and 300 MB."""
        return _ALLOWED_TIMES_WEIGHTS * self.weights_bytes + _ALLOWED_BESIDE_BYTES


class _Done(msgspec.Struct, kw_only=True):
    """What a child reports."""

    peak_bytes: int
    modules: list[str]
    phases_s: dict[str, float] = {}
    weights_bytes: int = 0


def chain_of(name: str) -> tuple[MaskDepthChain, dict[str, Any]]:
    """A CHAIN and the record of its weights.

    Raises:
        DepthmaskError: as `open_chain`.
    """
    from depthmask.export.source import open_chain

    if name.endswith(".onnx"):
        return open_chain(depth_onnx=Path(name))
    return open_chain(name, init=None if shipped_checkpoint(name) else 0)


def export_cost(
    chain: str, resolution: Resolution, precision: Precision, tune: bool, folder: Path
) -> ExportCost:
    """Export a chain with `image` input to a folder that does not exist yet.

    Raises:
        UnavailableError: the process ended early.
    """
    started = time.perf_counter()
    done = _child("export", chain, str(resolution), precision, str(int(tune)), str(folder))
    return ExportCost(
        seconds=time.perf_counter() - started,
        phases_s=done.phases_s,
        weights_bytes=done.weights_bytes,
        memory=_peak(done),
    )


def running_memory(graph: Path, resolution: Resolution, runtime: str, threads: int) -> Peak:
    """Open an ONNX file, or a bundle's graph, and run it a few times.

    Raises:
        UnavailableError: the process ended early.
    """
    return _peak(_child("run", str(graph), str(resolution), runtime, str(threads)))


def imports_bytes(modules: Sequence[str]) -> int:
    """What this process holds after it has loaded modules; those that go by another name are left out."""
    for name in modules:
        with suppress(Exception):
            importlib.import_module(name)
    return peak_rss_bytes()


def _peak(done: _Done) -> Peak:
    said = _python(["-c", _IMPORT], " ".join(done.modules).encode())
    return Peak(peak_bytes=done.peak_bytes, imports_bytes=int(said))


def _child(*arguments: str) -> _Done:
    return msgspec.json.decode(
        _python(["-m", "depthmask.bench.export_cost", *arguments]), type=_Done
    )


def _python(arguments: Sequence[str], said: bytes = b"") -> bytes:
    """The last line that a fresh interpreter prints: a library may print before it."""
    # -P: the user's folder may hold a depthmask of its own.
    command = [sys.executable, "-P", *arguments]
    done = subprocess.run(command, input=said, capture_output=True, check=False)
    if done.returncode or not done.stdout.strip():
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise UnavailableError(
            f"a measuring process must end well, but `{' '.join(arguments[1:3])}` ended with"
            f" {done.returncode}: {''.join(last) or 'nothing was said'}"
        )
    return done.stdout.splitlines()[-1]


def _export(name: str, resolution: Resolution, precision: str, tune: bool, folder: Path) -> _Done:
    from depthmask.export.exporter import export_chain
    from depthmask.export.rewrite import RewriteOptions

    phases_s: dict[str, float] = {}
    begun = [("opening the chain", time.perf_counter())]

    def progress(phase: str) -> None:
        now = time.perf_counter()
        before, at = begun[-1]
        phases_s[before] = phases_s.get(before, 0.0) + now - at
        begun.append((phase, now))

    chain, weights = chain_of(name)
    export_chain(
        chain,
        folder,
        resolution=resolution,
        precision=msgspec.convert(precision, Precision),
        input="image",
        rewrites=RewriteOptions(tune=tune),
        weights=weights,
        progress=progress,
    )
    progress("")
    floats = sum(tensor.numel() for tensor in chain.state_dict().values())
    return _Done(
        peak_bytes=peak_rss_bytes(),
        modules=list(sys.modules),
        phases_s={phase: round(seconds, 2) for phase, seconds in phases_s.items()},
        weights_bytes=4 * floats,
    )


def _run(graph: Path, resolution: Resolution, runtime: str, threads: int) -> _Done:
    if graph.is_dir():
        run = bundle_run(open_bundle(graph, check_files=False), resolution, runtime, threads)
    else:
        run = file_run(graph, runtime, threads)
    shape = (1, 3, resolution.height, resolution.width)
    image_13HW = np.random.default_rng(0).random(shape, np.float32)
    for _ in range(_CALLS):
        run(image_13HW)
    return _Done(peak_bytes=peak_rss_bytes(), modules=list(sys.modules))


def main(arguments: Sequence[str]) -> None:
    """Measure and print; what fails ends with a traceback, for the parent to note."""
    what, subject, size, *others = arguments
    height, _, width = size.partition("x")
    resolution = Resolution(int(height), int(width or height))
    if what == "export":
        precision, tune, folder = others
        done = _export(subject, resolution, precision, bool(int(tune)), Path(folder))
    else:
        runtime, threads = others
        done = _run(Path(subject), resolution, runtime, int(threads))
    print(msgspec.json.encode(done).decode())


if __name__ == "__main__":
    main(sys.argv[1:])
