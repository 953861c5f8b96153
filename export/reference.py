"""The reference that a bundle carries: raw frames, and what the fp32 PyTorch chain makes of them.

So `dmx verify` needs no torch, on any machine, ever after. Arrays in reference.npz: `frame/K` uint8
(height,width,3), and per resolution `RESOLUTION/mask/K` and `RESOLUTION/depth/K`, float32 (H,W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from depthmask.errors import InputError, UsageError
from depthmask.frames import FloatArray, Resolution, UInt8Array, read_image
from depthmask.samples import shipped_photos
from depthmask.untrusted import one_line, read_npz

if TYPE_CHECKING:
    from depthmask.chain import MaskDepthChain

PHOTO_COUNT = 8
_LARGEST_BYTES = 1 << 30
_LONGEST_SIDES_PX = (160, 200, 224, 97)  # up and down, odd and even


@dataclass(frozen=True)
class Reference:
    """Frames, and per resolution the maps of the fp32 PyTorch chain."""

    frames: tuple[UInt8Array, ...]
    maps: Mapping[Resolution, tuple[tuple[FloatArray, FloatArray], ...]]
    """(mask_HW, depth_hw) per frame."""

    @property
    def frame_names(self) -> tuple[str, ...]:
        """`photo 1` ... and `noise`, `black`, `white`, for messages."""
        flat = {0: "black", 255: "white"}
        return tuple(
            flat.get(int(frame.flat[0]), "grey")
            if (frame == frame.flat[0]).all()
            else f"photo {k + 1}"
            if k < PHOTO_COUNT
            else "noise"
            for k, frame in enumerate(self.frames)
        )

    def __repr__(self) -> str:
        return f"Reference({len(self.frames)} frames, {', '.join(map(str, self.maps))})"

    def save(self, file: IO[bytes]) -> None:
        """Write as reference.npz."""
        arrays: dict[str, npt.NDArray[np.generic]] = {
            f"frame/{k}": frame for k, frame in enumerate(self.frames)
        }
        for resolution, maps in self.maps.items():
            for k, (mask_HW, depth_hw) in enumerate(maps):
                arrays[f"{resolution}/mask/{k}"] = mask_HW
                arrays[f"{resolution}/depth/{k}"] = depth_hw
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path, resolutions: Sequence[Resolution]) -> Reference:
        """Read reference.npz.

        Raises:
            InputError: it is missing or damaged.
        """
        arrays = read_npz(path, _LARGEST_BYTES)
        count = sum(name.startswith("frame/") for name in arrays)
        try:
            frames = tuple(_frame(arrays[f"frame/{k}"]) for k in range(count))
            maps = {
                resolution: tuple(
                    (
                        _map(arrays[f"{resolution}/mask/{k}"]),
                        _map(arrays[f"{resolution}/depth/{k}"]),
                    )
                    for k in range(count)
                )
                for resolution in resolutions
            }
        except (KeyError, ValueError) as error:
            raise InputError(
                f"{path} must be a bundle's reference, but {one_line(error)} is missing or not as it must be"
            ) from error
        if not frames:
            raise InputError(f"{path} must hold at least one frame, but it holds none")
        return cls(frames, maps)


def _frame(array: npt.NDArray[np.generic]) -> UInt8Array:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError(f"a frame of {array.dtype} {array.shape}")
    return np.asarray(array, np.uint8)


def _map(array: npt.NDArray[np.generic]) -> FloatArray:
    if array.dtype != np.float32 or array.ndim != 2 or not array.size:
        raise ValueError(f"a map of {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("a map that is finite everywhere")
    return np.asarray(array, np.float32)


def reference_frames() -> tuple[UInt8Array, ...]:
    """Shipped photographs at several sizes, and the hard cases: black, white, noise."""
    photos = [read_image(path) for path in shipped_photos()[:PHOTO_COUNT]]
    return with_hard_cases(photos, seed=0, levels=(0, 255))


def with_hard_cases(
    photos: Sequence[UInt8Array], seed: int, levels: Sequence[int]
) -> tuple[UInt8Array, ...]:
    """Photographs at several sizes, noise, and flat frames of these levels."""
    frames = []
    for number, photo in enumerate(photos):
        scale = _LONGEST_SIDES_PX[number % len(_LONGEST_SIDES_PX)] / max(photo.shape[:2])
        small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        frames.append(np.asarray(small, np.uint8))
    noise = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)
    flat = [np.full((33, 47, 3), level, np.uint8) for level in levels]
    return (*frames, noise, *flat)


def make_reference(
    chain: MaskDepthChain,
    resolutions: Sequence[Resolution],
    frames: Sequence[UInt8Array] | None = None,
) -> Reference:
    """Run the fp32 PyTorch chain on frames (H,W,3), by default the reference frames.

    Raises:
        InputError: its outputs are not finite.
        UsageError: its mask leaves [0, 1].
    """
    import torch

    from depthmask.models.frame_chain import FrameChain

    frames = reference_frames() if frames is None else tuple(frames)
    maps: dict[Resolution, tuple[tuple[FloatArray, FloatArray], ...]] = {}
    for resolution in resolutions:
        module = FrameChain(chain, resolution).eval()
        results = []
        for frame in frames:
            with torch.inference_mode():
                mask_11HW, depth_11hw = module(torch.from_numpy(frame)[None])
            results.append((mask_11HW[0, 0].numpy(), depth_11hw[0, 0].numpy()))
        for role, values in zip(("mask", "depth"), zip(*results, strict=True), strict=True):
            if not all(np.isfinite(value).all() for value in values):
                raise InputError(
                    f"the {role} network must give finite values, but at {resolution}"
                    f" {chain.spec.original} itself gives NaN or infinity. Check the weights"
                )
        masks = [mask_HW for mask_HW, _ in results]
        low, high = min(mask.min() for mask in masks), max(mask.max() for mask in masks)
        if low < -1e-6 or high > 1 + 1e-6:
            raise UsageError(
                f"a mask must be in [0, 1], but the mask network gives {low:.3g} to {high:.3g}. Try"
                " --mask-activation sigmoid if these are logits"
            )
        maps[resolution] = tuple(results)
    return Reference(frames, maps)
