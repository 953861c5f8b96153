"""PyTorch eager: the chain itself, in fp32, as what every other runtime is compared with.

It takes the weights from where the bundle had them (a bundle holds graphs, not a checkpoint), and
checks that they are still the same.
"""

from __future__ import annotations

from pathlib import Path

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
from depthmask.runtimes import Tensors


class Torch:
    """The chain in PyTorch."""

    name = "torch"

    def __init__(self, module: torch.nn.Module, input_name: str, device: str) -> None:
        self.device = device
        self._module: torch.nn.Module | None = module.to(device)
        self._input = input_name

    def run(self, inputs: Tensors) -> Tensors:
        """Run the chain once."""
        if self._module is None:
            raise ValueError("this runtime is closed")
        with torch.inference_mode():
            mask, depth = self._module(torch.from_numpy(inputs[self._input]).to(self.device))
        return {"mask": mask.cpu().numpy(), "depth": depth.cpu().numpy()}

    def close(self) -> None:
        """Drop the chain."""
        self._module = None


class ChainPredictor:
    """A chain that predicts frames as a `Pipeline` does, before there is a bundle."""

    def __init__(self, chain: MaskDepthChain, resolution: Resolution) -> None:
        self._runtime = Torch(FrameChain(chain, resolution).eval(), "frame", "cpu")

    def __call__(self, frame_HW3: UInt8Array) -> Prediction:
        """Predict one frame, (H,W,3) uint8 RGB."""
        outputs = self._runtime.run({"frame": frame_HW3[None]})
        height, width = frame_HW3.shape[:2]
        return Prediction(
            to_frame(outputs["mask"][0, 0].astype(np.float32), height, width),
            to_frame(outputs["depth"][0, 0].astype(np.float32), height, width),
        )


def open_runtime(bundle: Bundle, resolution: Resolution, device: str, threads: int | None) -> Torch:
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
    return Torch(module, bundle.manifest.input, device)


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
