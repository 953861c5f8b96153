"""PyTorch eager: the chain itself, in fp32, as what every other runtime is compared with.

It takes the weights from where the bundle had them (a bundle holds graphs, not a checkpoint), and
checks that they are still the same.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from depthmask import chain as chains
from depthmask.bundle import Bundle
from depthmask.chain import MaskDepthChain
from depthmask.checkpoint import load_checkpoint, read_info
from depthmask.devices import cuda_problem
from depthmask.errors import InputError, UnavailableError
from depthmask.frames import Resolution, UInt8Array, to_frame
from depthmask.models.frame_chain import FrameChain
from depthmask.pipeline import Prediction
from depthmask.presets import refuse_foreign, shipped_checkpoint
from depthmask.runtimes import StagedOutputs, Tensors


class Torch:
    """The chain in PyTorch on the CPU."""

    name = "torch"
    device = "cpu"

    def __init__(self, module: torch.nn.Module, input_name: str) -> None:
        self._module: torch.nn.Module | None = module.to(self.device)
        self._input = input_name

    def run(self, inputs: Tensors) -> Tensors:
        """Run the chain once."""
        if self._module is None:
            raise ValueError("this runtime is closed")
        with torch.inference_mode():
            mask, depth = self._module(torch.from_numpy(inputs[self._input]))
        return {"mask": mask.numpy(), "depth": depth.numpy()}

    def close(self) -> None:
        """Drop the chain."""
        self._module = None


class TorchOnCuda:
    """The chain in PyTorch on a GPU, each part timed by CUDA events on the stream that does it.

    Events are the GPU's own clock. `inference` is from the end of the copy in to the end of the last
    kernel: where the host hands out kernels more slowly than the GPU ends them, the gaps are in it, and
    `enqueue` is about as long. `copy_to_device` holds the host's copy into page-locked memory too.
    """

    name = "torch"
    device = "cuda"

    def __init__(self, module: torch.nn.Module, input_name: str) -> None:
        self._module: torch.nn.Module | None = module.to(self.device)
        self._input = input_name

    def run(self, inputs: Tensors) -> Tensors:
        """Run the chain once."""
        return self.run_staged(inputs).outputs

    def run_staged(self, inputs: Tensors) -> StagedOutputs:
        """Run the chain once, and time the parts."""
        if self._module is None:
            raise ValueError("this runtime is closed")
        event: Any = torch.cuda.Event  # it has no types
        begin, copied, computed, end = (event(enable_timing=True) for _ in range(4))
        started = time.perf_counter()
        pinned = torch.from_numpy(inputs[self._input]).pin_memory()
        pinned_ms = 1000 * (time.perf_counter() - started)
        with torch.inference_mode(), _full_float32():
            begin.record()
            on_device = pinned.to(self.device, non_blocking=True)
            copied.record()
            started = time.perf_counter()
            mask, depth = self._module(on_device)
            enqueue_ms = 1000 * (time.perf_counter() - started)
            computed.record()
            outputs = {"mask": _copy_back(mask), "depth": _copy_back(depth)}
            end.record()
        end.synchronize()
        return StagedOutputs(
            # Copied once more, for page-locked memory is scarce and the caller may keep the maps.
            {name: tensor.numpy().copy() for name, tensor in outputs.items()},
            copy_to_device_ms=pinned_ms + begin.elapsed_time(copied),
            inference_ms=copied.elapsed_time(computed),
            copy_back_ms=computed.elapsed_time(end),
            enqueue_ms=enqueue_ms,
        )

    def close(self) -> None:
        """Drop the chain."""
        self._module = None


class ChainPredictor:
    """A chain that predicts frames as a `Pipeline` does, before there is a bundle."""

    def __init__(self, chain: MaskDepthChain, resolution: Resolution) -> None:
        self._runtime = Torch(FrameChain(chain, resolution).eval(), "frame")

    def __call__(self, frame_HW3: UInt8Array) -> Prediction:
        """Predict one frame, (H,W,3) uint8 RGB."""
        outputs = self._runtime.run({"frame": frame_HW3[None]})
        height, width = frame_HW3.shape[:2]
        return Prediction(
            to_frame(outputs["mask"][0, 0].astype(np.float32), height, width),
            to_frame(outputs["depth"][0, 0].astype(np.float32), height, width),
        )


def open_runtime(
    bundle: Bundle, resolution: Resolution, device: str, threads: int | None
) -> Torch | TorchOnCuda:
    """Build the chain that the bundle was exported from.

    Raises:
        UnavailableError: the device is not here.
        InputError: the weights are not where they were, or changed.
    """
    problem = cuda_problem()
    if problem is None and not torch.cuda.is_available():
        problem = "the installed torch was built without CUDA"
    if device == "cuda" and problem:
        raise UnavailableError(f"--device cuda was asked for, but {problem}")
    if device == "auto":
        device = "cpu" if problem else "cuda"
    if threads is not None:
        torch.set_num_threads(threads)
    chain = source_chain(bundle)
    takes_frames = bundle.manifest.input == "frame"
    module = FrameChain(chain, resolution).eval() if takes_frames else chain
    return (TorchOnCuda if device == "cuda" else Torch)(module, bundle.manifest.input)


def _full_float32() -> AbstractContextManager[None]:
    """Left alone, cuDNN rounds what it convolves to TF32's 10 bits; matrix products are not rounded."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags


def _copy_back(tensor: torch.Tensor) -> torch.Tensor:
    """Enqueue a copy into page-locked memory, which is done once the stream has got so far."""
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def source_chain(bundle: Bundle) -> MaskDepthChain:
    """The PyTorch chain of a bundle, from the recorded seed or checkpoint.

    Raises:
        InputError: the checkpoint is gone or is not the one that was exported.
    """
    weights, spec = bundle.manifest.weights, bundle.manifest.chain
    refuse_foreign(spec, str(bundle.path))
    if "init_seed" in weights:
        return chains.build(spec, seed=weights["init_seed"])
    if "checkpoint" not in weights:
        raise InputError(
            f"{bundle.path} was exported from a chain in memory, so --runtime torch has no weights to run."
            " Try onnxruntime or openvino"
        )
    shipped = shipped_checkpoint(spec.preset) if weights.get("shipped") else None
    folder = shipped or Path(weights["checkpoint"])
    if read_info(folder).weights_sha256 != weights["sha256"]:
        raise InputError(
            f"{folder} must be the checkpoint that {bundle.path} was exported from, but its weights"
            " changed. Export again"
        )
    return load_checkpoint(folder)
