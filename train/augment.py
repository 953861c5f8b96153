"""What light and cameras do to a picture: augmentation of composites and renders.

Shapes: image_HW3 uint8 RGB, patch_HW4 uint8 premultiplied RGBA, in pixels.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from depthmask.frames import FloatArray, UInt8Array


def relight(patch_HW4: UInt8Array, image_HW3: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Gain and offset per channel, sometimes towards the background's own light."""
    alpha_HW = patch_HW4[:, :, 3].astype(np.float32) / 255
    gain_3 = rng.uniform(0.65, 1.25) * rng.uniform(0.92, 1.08, 3)
    if rng.random() < 0.5:
        mean_3 = _colour_sum(patch_HW4) / max(float(alpha_HW.sum()), 1.0)
        image_sum_3 = np.array(cv2.sumElems(image_HW3)[:3])
        towards_3 = (image_sum_3 / image_HW3[:, :, 0].size + 20) / (mean_3 + 20)
        gain_3 = gain_3 * towards_3 ** rng.uniform(0, 0.7)
    offset = rng.uniform(-15, 15)
    # Plane by plane: arrays of three interleaved colours would be worked on three values at a time.
    most_HW, shift_HW = 255 * alpha_HW, offset * alpha_HW
    lit_3HW = []
    for colour, gain in enumerate(gain_3):
        lit_HW = np.multiply(patch_HW4[:, :, colour], gain, dtype=np.float64)
        lit_HW += shift_HW
        lit_3HW.append(np.clip(lit_HW, 0, most_HW, out=lit_HW))
    if rng.random() < 0.3:
        planes_4HW = [*lit_3HW, most_HW.astype(np.float64)]
        softened_HW4 = cv2.GaussianBlur(cv2.merge(planes_4HW), (0, 0), rng.uniform(0.4, 1.0))
        return np.asarray(softened_HW4 + 0.5, np.uint8)
    rounded_3HW = [(lit_HW + 0.5).astype(np.uint8) for lit_HW in lit_3HW]
    return np.asarray(cv2.merge([*rounded_3HW, patch_HW4[:, :, 3]]), np.uint8)


def cast_shadow(
    image_HW3: UInt8Array,
    bottom: int,
    left: int,
    width: int,
    height: int,
    rng: np.random.Generator,
) -> None:
    """A soft dark ellipse on the ground at the feet; not part of the mask."""
    shade_HW = np.zeros(image_HW3.shape[:2], np.float32)
    sigma = max(1.0, 0.03 * height)
    centre = (round(left + width * rng.uniform(0.3, 0.7)), bottom - round(0.02 * height))
    axes = (max(2, round(width * rng.uniform(0.35, 0.6))), max(2, round(height * 0.07)))
    cv2.ellipse(shade_HW, centre, axes, 0, 0, 360, float(rng.uniform(0.2, 0.6)), -1)
    # Only the rows that it reaches, and so many more that the blur sees nothing but zeros at their
    # border: bit for bit what blurring the whole canvas gives.
    reach = axes[1] + 2 * math.ceil(4 * sigma + 1) + 2
    rows = slice(max(0, centre[1] - reach), max(0, centre[1] + reach))
    if shade_HW[rows].size:
        soft_HW = cv2.GaussianBlur(shade_HW[rows], (0, 0), sigma)
        clear_HW = 1 - soft_HW
        lit_HW3 = image_HW3[rows] * np.asarray(cv2.merge([clear_HW, clear_HW, clear_HW]))
        image_HW3[rows] = lit_HW3.astype(np.uint8)


def rotate(cutout_HW4: UInt8Array, degrees: float) -> UInt8Array:
    """Turned about its centre, and cropped to what is visible."""
    height, width = cutout_HW4.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    cosine, sine = abs(matrix[0, 0]), abs(matrix[0, 1])
    new_width = round(height * sine + width * cosine)
    new_height = round(height * cosine + width * sine)
    matrix[:, 2] += (new_width - width) / 2, (new_height - height) / 2
    turned = cv2.warpAffine(cutout_HW4, matrix, (new_width, new_height), flags=cv2.INTER_LINEAR)
    left, top, box_width, box_height = cv2.boundingRect(cv2.extractChannel(turned, 3))
    if not box_width:
        return cutout_HW4
    return np.asarray(turned[top : top + box_height, left : left + box_width], np.uint8)


def degrade(image_HW3: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """What cameras do: light and colour, blur, noise, JPEG."""
    table = np.arange(256, dtype=np.float32) / 255
    gamma, gain, offset = rng.uniform(0.75, 1.35), rng.uniform(0.75, 1.2), rng.uniform(-0.08, 0.08)
    tables_256x3 = 255 * (table[:, None] ** gamma * gain * rng.uniform(0.93, 1.07, 3) + offset)
    image = cv2.LUT(image_HW3, np.clip(tables_256x3, 0, 255).astype(np.uint8)[None])
    if rng.random() < 0.1:
        grey_HW = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        image = cv2.cvtColor(grey_HW, cv2.COLOR_GRAY2RGB)
    if rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.2))
    if rng.random() < 0.35:
        noise_HW3 = np.asarray(rng.standard_normal(image.shape, np.float32))
        noise_HW3 *= rng.uniform(1, 10)
        noise_HW3 += image
        image = np.clip(noise_HW3, 0, 255, out=noise_HW3).astype(np.uint8)
    if rng.random() < 0.35:
        quality = int(rng.integers(30, 90))
        _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(image, np.uint8)


def _colour_sum(patch_HW4: UInt8Array) -> FloatArray:
    """Of each colour, as float32 adds them up: below 2**24 exactly, in whatever order."""
    if patch_HW4[:, :, 0].size * 255 < 2**24:
        return np.array(cv2.sumElems(patch_HW4)[:3], np.float32)
    return np.asarray(patch_HW4[:, :, :3].astype(np.float32).sum((0, 1)), np.float32)
