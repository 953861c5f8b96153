"""How tests and measurements of the browser's page start Chromium, and what its camera sees."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

CAMERA_HEIGHT, CAMERA_WIDTH = 480, 640
QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
"""Arguments with which it asks nobody for anything."""


def camera(clip: Path) -> tuple[str, ...]:
    """Arguments that give it one, which plays a clip in a loop."""
    return (
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={clip}",
    )


def write_clip(path: Path, photo_HW3: npt.NDArray[np.uint8], frames: int = 30) -> None:
    """Write a camera that moves over a photograph, as YUV4MPEG2 of 30 frames a second."""
    scale = 1.15 * max(CAMERA_HEIGHT / photo_HW3.shape[0], CAMERA_WIDTH / photo_HW3.shape[1])
    large_HW3 = cv2.resize(photo_HW3, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    rest_y, rest_x = large_HW3.shape[0] - CAMERA_HEIGHT, large_HW3.shape[1] - CAMERA_WIDTH
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W%d H%d F30:1 Ip A1:1 C420jpeg\n" % (CAMERA_WIDTH, CAMERA_HEIGHT))
        for index in range(frames):
            share = 0.5 - 0.5 * np.cos(2 * np.pi * index / frames)
            y, x = round(share * rest_y), round(share * rest_x)
            part_HW3 = large_HW3[y : y + CAMERA_HEIGHT, x : x + CAMERA_WIDTH]
            file.write(b"FRAME\n" + cv2.cvtColor(part_HW3, cv2.COLOR_RGB2YUV_I420).tobytes())
