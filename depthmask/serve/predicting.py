"""From an image file's bytes to a prediction's: what the worker does with a request."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from depthmask.errors import InputError
from depthmask.frames import UInt8Array, decode_image, encode_png
from depthmask.image_size import media_type, size_px
from depthmask.serve.answer import NPZ, Answer, Wanted
from depthmask.serve.refusal import Refusal
from depthmask.video.overlay import Look, mask_levels, next_range, render
from depthmask.video.sinks import depth_scale, encode_depth

if TYPE_CHECKING:
    from depthmask.pipeline import Pipeline, Prediction

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")


@dataclass(frozen=True)
class Predicted:
    """An answer, and what it took."""

    answer: Answer
    inference_s: float


def check_image(data: bytes, declared: str, max_pixels: int) -> None:
    """Look at an image's header, without decoding it.

    Raises:
        Refusal: it is none, another one than declared, or has more pixels than allowed.
    """
    found, size = media_type(data), size_px(data)
    if found is None or size is None:
        raise Refusal(
            400, "corrupt", f"the body must be a whole {declared}, but its header is not one"
        )
    if found != declared:
        raise Refusal(
            415,
            "media_type",
            f"the body must be {declared}, as Content-Type says, but it is {found}",
        )
    height, width = size
    if height * width > max_pixels:
        raise Refusal(
            413,
            "pixels",
            f"the image must have {max_pixels / 1e6:g} million pixels at most, but it is"
            f" {width} x {height}",
        )


def predict(data: bytes, wanted: Wanted, pipeline: Pipeline) -> Predicted:
    """Decode, predict, encode.

    Raises:
        Refusal: the image is damaged.
        CheckFailedError: the networks gave a value that is not finite.
    """
    began_s = time.perf_counter()
    try:
        frame_HW3 = decode_image(data, "the body")
    except InputError as error:
        raise Refusal(400, "corrupt", " ".join(str(error).split())) from error
    decoded_s = time.perf_counter()
    prediction = pipeline(frame_HW3)
    inferred_s = time.perf_counter()
    chain = pipeline.manifest.chain
    look = Look(chain.kind, chain.depth_unit)
    if wanted.media_type == NPZ:
        body, headers = _npz(prediction), {"Depth-Unit": look.depth_unit}
    else:
        body, headers = _png(wanted.output or "", frame_HW3, prediction, look)
    times_s = {
        "decode": decoded_s - began_s,
        "inference": inferred_s - decoded_s,
        "encode": time.perf_counter() - inferred_s,
    }
    headers["Server-Timing"] = ", ".join(
        f"{name};dur={1000 * seconds:.1f}" for name, seconds in times_s.items()
    )
    return Predicted(Answer(body, wanted.media_type, headers=headers), times_s["inference"])


def _npz(prediction: Prediction) -> bytes:
    file = io.BytesIO()
    np.savez(file, mask=prediction.mask_HW, depth=prediction.depth_HW)
    return file.getvalue()


def _png(
    output: str, frame_HW3: UInt8Array, prediction: Prediction, look: Look
) -> tuple[bytes, dict[str, str]]:
    """A picture and its headers; those of depth are the fields of `dmx run`'s depth.json."""
    if output == "mask":
        return encode_png(mask_levels(prediction.mask_HW), output), {}
    if output == "depth":
        scale = depth_scale(prediction.depth_HW, look.depth_unit)
        encoded = encode_depth(prediction.depth_HW, scale)
        headers = {
            "Depth-Scale": f"{scale:g}",
            "Depth-Unit": look.depth_unit,
            "Depth-Clipped-Pixels": str(encoded.clipped),
        }
        return encode_png(encoded.steps_HW, output), headers
    depth_range = next_range(None, prediction, look.kind)
    return encode_png(render(output, frame_HW3, prediction, depth_range, look), output), {}
