"""Where views go: a folder of PNG files, a video file, a window."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import cv2
import numpy as np
import numpy.typing as npt

from depthmask.atomic import check_target, new_folder
from depthmask.errors import OutputError, UsageError
from depthmask.frames import FloatArray, write_png
from depthmask.video.frame import Frame
from depthmask.video.overlay import VIEWS, DepthRange, Look, mask_levels, next_range, render
from depthmask.video.screen import screen_size, window_size

if TYPE_CHECKING:
    from depthmask.pipeline import Prediction

DEPTH_FILE = "depth.json"
METRES_PER_STEP = 0.001
_MOST_STEPS = 65535
# A relative depth has no natural step: the first picture chooses one, with room for later ones.
_HEADROOM = 4
STEADY_SHARE = 0.05
"""Of a new frame's depth range in a video's colours: they follow in about a second, without flicker."""


class Sink(Protocol):
    """Takes frames with their predictions; what it made is in place when the `with` block ends well."""

    @property
    def is_open(self) -> bool:
        """False once the user has closed the window."""

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Show or store one frame's views."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


@dataclass(frozen=True)
class EncodedDepth:
    """A depth map as it stands in a 16 bit PNG."""

    steps_HW: npt.NDArray[np.uint16]
    """depth = steps * scale; 0 = no value."""
    clipped: int
    """Pixels beyond what 16 bit can hold at this scale; they have the nearest value that it can."""


def encode_depth(depth_HW: FloatArray, scale: float) -> EncodedDepth:
    """Depth in steps of `scale`. What is not finite becomes 0, which means no value."""
    steps_HW = np.rint(depth_HW / np.float32(scale))
    finite_HW = np.isfinite(steps_HW)
    held_HW = np.clip(steps_HW, 1, _MOST_STEPS)
    clipped = int((finite_HW & (np.abs(steps_HW - held_HW) > 1)).sum())
    return EncodedDepth(np.where(finite_HW, held_HW, 0).astype(np.uint16), clipped)


def depth_scale(depth_HW: FloatArray, unit: str) -> float:
    """Units per step: a millimetre for metres; for relative depth a power of ten fit for this map."""
    if unit == "m":
        return METRES_PER_STEP
    finite = depth_HW[np.isfinite(depth_HW)]
    largest = float(finite.max()) if finite.size else 1.0
    if largest <= 0:
        return METRES_PER_STEP
    return float(10.0 ** np.ceil(np.log10(_HEADROOM * largest / _MOST_STEPS)))


class FolderSink:
    """NAME.overlay.png, NAME.mask.png (8 bit), NAME.depth.png (16 bit, with depth.json), NAME.side.png.

    All at the frame's size. The folder appears when everything is in it.
    """

    is_open = True

    def __init__(
        self,
        target: Path,
        views: Sequence[str],
        look: Look,
        *,
        overwrite: bool = False,
        share: float = 1.0,
        scale: float | None = None,
    ) -> None:
        """`scale` is the depth files'; by default the first depth chooses it."""
        self._target, self._views, self._look, self._share = target, tuple(views), look, share
        self._overwrite = overwrite
        self._folder: Path | None = None
        self._context: AbstractContextManager[Path] | None = None
        self._range: DepthRange | None = None
        self._scale = scale
        self._clipped: dict[str, int] = {}

    @property
    def clipped(self) -> dict[str, int]:
        """Depth files with pixels that 16 bit could not hold, and how many."""
        return {name: count for name, count in self._clipped.items() if count}

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Write a frame's files.

        Raises:
            OutputError: the disk is full, or a name is there already.
        """
        if self._folder is None:
            raise RuntimeError("write is for inside the with block")
        self._range = next_range(self._range, prediction, self._look.kind, self._share)
        for view in self._views:
            path = self._folder / f"{frame.name}.{view}.png"
            if path.exists():
                raise OutputError(
                    f"{path.name} would be written twice: two frames are called {frame.name}"
                )
            if view == "mask":
                write_png(path, mask_levels(prediction.mask_HW))
            elif view == "depth":
                self._write_depth(path, prediction.depth_HW)
            else:
                shown_HW3 = render(view, frame.image_HW3, prediction, self._range, self._look)
                write_png(path, shown_HW3)

    def _write_depth(self, path: Path, depth_HW: FloatArray) -> None:
        if self._scale is None:
            self._scale = depth_scale(depth_HW, self._look.depth_unit)
        encoded = encode_depth(depth_HW, self._scale)
        write_png(path, encoded.steps_HW)
        self._clipped[path.name] = encoded.clipped

    def __enter__(self) -> Self:
        self._context = new_folder(self._target, overwrite=self._overwrite, check_owner=False)
        self._folder = self._context.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._context is not None
        try:
            if kind is None and self._scale is not None and self._clipped:
                assert self._folder is not None
                document = depth_document(self._look, self._scale, self._clipped)
                (self._folder / DEPTH_FILE).write_bytes(document)
        except BaseException as failure:
            # As if the block had failed: the folder goes, and an OSError becomes an OutputError.
            self._context.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._context.__exit__(kind, error, traceback)


def depth_document(look: Look, scale: float, clipped: Mapping[str, int]) -> bytes:
    """What depth.json says of depth files.

    Args:
        look: The chain's.
        scale: Units per step.
        clipped: Of every file, in the order of writing: pixels that 16 bit could not hold.

    """
    foreground = look.kind == "foreground"
    document = {
        "schema": 1,
        "scale": scale,
        "unit": look.depth_unit,
        "meaning": "depth = value * scale; value 0 = no depth; depth grows with distance",
        "counts": "inside the mask" if foreground else "in the whole frame",
        "files": sorted(clipped),
        "clipped_pixels": {name: count for name, count in clipped.items() if count},
    }
    return json.dumps(document, indent=2).encode() + b"\n"  # ASCII: a name need not be UTF-8


def check_folder(target: Path, *, overwrite: bool) -> None:
    """Refuse an output folder before any work, also where replacing it would destroy other things.

    Raises:
        UsageError: it exists and `overwrite` is off, or it holds files that are not from `dmx run`.
        OutputError: it cannot be written.
    """
    try:
        check_target(target, overwrite=overwrite)
        found = list(target.iterdir()) if target.exists() else []
    except OSError as error:
        raise OutputError(f"{target} cannot be read: {error.strerror}") from error
    ours = re.compile(rf".+\.({'|'.join(VIEWS)})\.(png|mp4)")
    for path in found:
        if path.is_dir() or not (path.name == DEPTH_FILE or ours.fullmatch(path.name)):
            raise UsageError(
                f"{target} must hold nothing but outputs of `dmx run` to be replaced, but {path.name} is"
                " in it. Try another --out"
            )


_WINDOW = cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL


class WindowSink:
    """A window on the desktop; Q, Escape or its close button ends the run."""

    def __init__(self, view: str, look: Look, title: str) -> None:
        self._view, self._look, self._title = view, look, title
        self._range: DepthRange | None = None
        self._shape: tuple[int, ...] | None = None
        self.is_open = True

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Show a frame; the first one, and one of another size, sets the size of the window."""
        self._range = next_range(self._range, prediction, self._look.kind, STEADY_SHARE)
        shown_HW3 = render(self._view, frame.image_HW3, prediction, self._range, self._look)
        if shown_HW3.shape != self._shape:
            self._shape = shown_HW3.shape
            height, width = shown_HW3.shape[:2]
            cv2.resizeWindow(self._title, *window_size(width, height, screen_size()))
        cv2.imshow(self._title, cv2.cvtColor(shown_HW3, cv2.COLOR_RGB2BGR))
        self.idle()

    def idle(self) -> None:
        """Look for a key, and keep the window alive while no frame comes."""
        key = cv2.waitKey(1) & 0xFF
        self.is_open = self._is_visible() and key not in (ord("q"), 27)

    def _is_visible(self) -> bool:
        try:
            return cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error as error:
            # OpenCV with Qt forgets its whole state with the last window that the user closes.
            if error.code != cv2.Error.StsNullPtr:
                raise
            return False

    def __enter__(self) -> Self:
        cv2.namedWindow(self._title, _WINDOW)
        return self

    def __exit__(self, *_: Any) -> None:  # noqa: ANN401  (the protocol of context managers)
        cv2.destroyAllWindows()


def has_display() -> bool:
    """Whether a window can be shown; asked first, as OpenCV aborts the process where it cannot."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
