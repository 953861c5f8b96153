"""A bundle on a runtime: frames in, masks and depths out, at the frame's size."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from depthmask.bundle import Bundle, Manifest, open_bundle
from depthmask.errors import CheckFailedError, InputError, UsageError
from depthmask.frames import FloatArray, Resolution, UInt8Array, to_frame, to_network
from depthmask.runtimes import Runtime, StagedRuntime, Tensors, open_runtime


@dataclass(frozen=True)
class Prediction:
    """What a chain says about one frame, at the frame's size."""

    mask_HW: FloatArray
    """float32 in [0, 1]."""
    depth_HW: FloatArray
    """float32, in the manifest's `chain.depth_unit`."""
    timings_ms: dict[str, float] = field(default_factory=dict)
    """`preprocess`, `inference` and `postprocess`; a batch's time is shared evenly by its frames.

    On CUDA `copy_to_device` and `copy_back` stand around `inference`, and `enqueue`, where it is known, is
    the host's time for handing the inference to the GPU: a part of the others and no addition to them.
    """

    def __repr__(self) -> str:
        height, width = self.mask_HW.shape
        times = ", ".join(f"{name} {ms:.1f} ms" for name, ms in self.timings_ms.items())
        return f"Prediction({height}x{width}, {times})"


class Pipeline:
    """An opened bundle; a context manager. Made by `Pipeline.open`.

    Several threads may use one. A process that is forked off may not: what computes does not follow it.
    """

    def __init__(
        self, bundle: Bundle, runtime: Runtime, resolution: Resolution, open_ms: float = 0.0
    ) -> None:
        self.bundle = bundle
        self.runtime = runtime
        self.resolution = resolution
        self.open_ms = open_ms
        self._process = os.getpid()
        self._is_open = True
        self._staged = runtime if isinstance(runtime, StagedRuntime) else None

    @classmethod
    def open(
        cls,
        path: Path | str | None = None,
        runtime: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        *,
        resolution: Resolution | None = None,
        check_files: bool = True,
        spin: bool = True,
        allow_fallback: bool = False,
    ) -> Pipeline:
        """Open a bundle (by default the shipped `lite`) on exactly the runtime and device asked for.

        `spin` is off where the frames share the cores with their own reading, drawing and writing. With
        `allow_fallback`, ONNX Runtime may give another device what the one asked for cannot compute.

        Raises:
            InputError: there is no such bundle, or it is damaged.
            UsageError: unknown runtime or device, or a resolution that the bundle lacks or does not allow.
            UnavailableError: the runtime's package or the device is not here, with the reason.
        """
        started = time.perf_counter()
        bundle = open_bundle(path, check_files=check_files)
        chosen = bundle.graph(resolution).resolution
        opened = open_runtime(
            bundle,
            chosen,
            runtime=runtime,
            device=device,
            threads=threads,
            spin=spin,
            allow_fallback=allow_fallback,
        )
        return cls(bundle, opened, chosen, 1000 * (time.perf_counter() - started))

    @property
    def manifest(self) -> Manifest:
        """The bundle's description."""
        return self.bundle.manifest

    def __call__(self, frame_HW3: npt.NDArray[np.uint8]) -> Prediction:
        """Predict one frame, (H,W,3) uint8 RGB of any size.

        Raises:
            UsageError: the frame is of another shape or type, or the pipeline is closed or was opened before
                this process was forked off.
            CheckFailedError: the networks gave a value that is not finite.
            InputError: the graph cannot be run, or does not give a mask and a depth.
        """
        return self._predict(_check_frame(frame_HW3)[None])[0]

    def run_batch(self, frames: Sequence[npt.NDArray[np.uint8]]) -> list[Prediction]:
        """Predict several frames; those of one size go through a dynamic-batch bundle together.

        Raises:
            UsageError: a frame is of another shape or type, or they are more than the export allowed.
            CheckFailedError: the networks gave a value that is not finite.
        """
        checked = [_check_frame(frame) for frame in frames]
        together = self.manifest.dynamic_batch and len({frame.shape for frame in checked}) == 1
        if together and len(checked) > 1:
            self.bundle.check_batch(len(checked))
            return self._predict(np.stack(checked))
        return [self._predict(frame[None])[0] for frame in checked]

    def close(self) -> None:
        """Release the runtime; closing twice is harmless."""
        self._is_open = False
        if self._process == os.getpid():
            self.runtime.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Pipeline({self.bundle.path}, {self.resolution}, {self.runtime.name}, {self.runtime.device})"

    def _require_open(self) -> None:
        if not self._is_open:
            raise UsageError(f"{self!r} must be open, but it was closed. Try Pipeline.open again")
        if self._process != os.getpid():
            raise UsageError(
                f"{self!r} must be used by the process that opened it, but this one was forked off later. Try"
                " Pipeline.open in here, or the start method spawn"
            )

    def _predict(self, frames_NHW3: UInt8Array) -> list[Prediction]:
        self._require_open()
        started = time.perf_counter()
        if self.manifest.input == "frame":
            inputs: Tensors = {"frame": frames_NHW3}
        else:
            image_N3HW = to_network(frames_NHW3, self.resolution, self.manifest.normalisation)
            inputs = {"image": image_N3HW}
        prepared = time.perf_counter()
        outputs, run_ms = self._run(inputs)
        inferred = time.perf_counter()
        count = len(frames_NHW3)
        mask_N1HW, depth_N1HW = (_checked(outputs, name, count) for name in ("mask", "depth"))
        height, width = frames_NHW3.shape[1:3]
        maps = [
            (to_frame(mask_1HW[0], height, width), to_frame(depth_1HW[0], height, width))
            for mask_1HW, depth_1HW in zip(mask_N1HW, depth_N1HW, strict=True)
        ]
        done = time.perf_counter()
        times_ms = {
            "preprocess": 1000 * (prepared - started),
            **(run_ms or {"inference": 1000 * (inferred - prepared)}),
            "postprocess": 1000 * (done - inferred),
        }
        timings_ms = {name: ms / len(maps) for name, ms in times_ms.items()}
        return [Prediction(mask_HW, depth_HW, dict(timings_ms)) for mask_HW, depth_HW in maps]

    def _run(self, inputs: Tensors) -> tuple[Tensors, dict[str, float]]:
        """Outputs, and what the parts took where the runtime can tell them apart."""
        if self._staged is None:
            return self.runtime.run(inputs), {}
        found = self._staged.run_staged(inputs)
        run_ms = {
            "copy_to_device": found.copy_to_device_ms,
            "inference": found.inference_ms,
            "copy_back": found.copy_back_ms,
        }
        if found.enqueue_ms is not None:
            run_ms["enqueue"] = found.enqueue_ms
        return found.outputs, run_ms


def _check_frame(frame_HW3: npt.NDArray[np.uint8]) -> UInt8Array:
    frame = np.asarray(frame_HW3)
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
        raise UsageError(
            f"a frame must be (H,W,3) uint8 RGB, but got {frame.shape} {frame.dtype}. Images are read"
            " with depthmask.frames.read_image"
        )
    return np.ascontiguousarray(frame)


def _checked(outputs: Tensors, name: str, count: int) -> FloatArray:
    """A map of each frame; a non-finite value would spread over the frame unnoticed."""
    given = outputs.get(name)
    if given is None or given.dtype.kind != "f" or given.ndim != 4 or 0 in given.shape:
        found = "none" if given is None else f"{given.dtype} {given.shape}"
        raise InputError(
            f"a graph must give a {name} (N,1,h,w) of floats, but it gives {found}. Export again"
        )
    if given.shape[:2] != (count, 1):
        raise InputError(
            f"a graph must give {(count, 1)} maps, but it gives {given.shape[:2]} as its {name}"
        )
    values = given.astype(np.float32, copy=False)
    if not np.isfinite(values.sum(dtype=np.float64)):
        raise CheckFailedError(
            f"the {name} must be finite, but the network gave NaN or infinity. Try `dmx verify`, or an"
            " export in fp32"
        )
    return values
