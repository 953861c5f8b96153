"""The size of the screen, and of a window that fits on it."""

from __future__ import annotations

import ctypes
import ctypes.util

_FREE_SHARE = 0.9
"""Of the screen, for a window: the rest is for its frame and the desktop's bars."""


def window_size(
    width: int, height: int, screen_WH: tuple[int, int] | None = None
) -> tuple[int, int]:
    """The picture's own size, or as large as fits on the screen, in the picture's proportions.

    Args:
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        screen_WH: of the screen, in pixels; None where it is not known.
    """
    if screen_WH is None:
        return width, height
    scale = min(1.0, _FREE_SHARE * screen_WH[0] / width, _FREE_SHARE * screen_WH[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def screen_size() -> tuple[int, int] | None:
    """Width and height of the X11 screen in pixels, which OpenCV does not tell; None without X11."""
    name = ctypes.util.find_library("X11")
    if name is None:
        return None
    x11 = ctypes.CDLL(name)
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XOpenDisplay.argtypes = [ctypes.c_char_p]
    for function in (x11.XDisplayWidth, x11.XDisplayHeight):
        function.argtypes = [ctypes.c_void_p, ctypes.c_int]
    x11.XCloseDisplay.argtypes = [ctypes.c_void_p]
    display = x11.XOpenDisplay(None)
    if not display:
        return None
    size = x11.XDisplayWidth(display, 0), x11.XDisplayHeight(display, 0)
    x11.XCloseDisplay(display)
    return size
