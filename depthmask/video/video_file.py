"""A video file that is playable at every moment, also of a run that was killed."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream

from depthmask.atomic import umask
from depthmask.errors import OutputError, UsageError
from depthmask.frames import UInt8Array
from depthmask.video.frame import Frame
from depthmask.video.overlay import DepthRange, Look, next_range, render
from depthmask.video.sinks import STEADY_SHARE

if TYPE_CHECKING:
    from depthmask.pipeline import Prediction

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv"})
_CLOCK_HZ = 90_000
_DEFAULT_FPS = 25.0
# Fragments of about a second while it is written, an ordinary index once it is whole.
_OPTIONS = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof+hybrid_fragmented",
    "flush_packets": "1",
}
_BT709 = 1
_LIMITED_RANGE = 1


class VideoSink:
    """One view as a video: H.264 where PyAV has x264, else MPEG-4; the source's times, without sound.

    Written to NAME.partial-*.SUFFIX beside the target, and renamed when the block ends well. A process that
    is killed leaves that file, playable but for its last second. The first frame sets the size: odd sides
    get one more pixel, later frames of another size are fitted into it.
    """

    is_open = True

    def __init__(
        self, target: Path, view: str, look: Look, *, fps: float | None, overwrite: bool = False
    ) -> None:
        self._target, self._view, self._look = target, view, look
        self._fps = fps if fps and 0 < fps <= 1000 else _DEFAULT_FPS
        self._overwrite = overwrite
        self._temporary: Path | None = None
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._range: DepthRange | None = None
        self._size: tuple[int, ...] | None = None
        self._reformatter = VideoReformatter()
        self._last_tick = -1

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Encode a frame's view.

        Raises:
            OutputError: the file cannot be written.
        """
        self.put(self.draw(frame, prediction))

    def draw(self, frame: Frame, prediction: Prediction) -> av.VideoFrame:
        """A frame's view as the encoder takes it."""
        self._range = next_range(self._range, prediction, self._look.kind, STEADY_SHARE)
        shown_HW3 = render(self._view, frame.image_HW3, prediction, self._range, self._look)
        if self._size is None:
            self._size = tuple(side + side % 2 for side in shown_HW3.shape[:2])
        rgb = av.VideoFrame.from_ndarray(_fitted(shown_HW3, *self._size), format="rgb24")
        # In the colours that the stream declares: BT.709, limited range.
        picture = self._reformatter.reformat(
            rgb, format="yuv420p", dst_colorspace=Colorspace.ITU709, threads=1
        )
        picture.pts = self._tick(frame.time_s)
        picture.time_base = Fraction(1, _CLOCK_HZ)
        picture.duration = self._ticks_per_frame
        return picture

    def put(self, drawn: av.VideoFrame) -> None:
        """Encode what `draw` made.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            if self._stream is None:
                self._stream = self._start(drawn.height, drawn.width)
            self._mux(drawn)
        except (av.FFmpegError, OSError) as error:
            raise self._not_written(error) from error

    @property
    def _ticks_per_frame(self) -> int:
        return max(1, round(_CLOCK_HZ / self._fps))

    def _tick(self, time_s: float | None) -> int:
        """The frame's time; always after the last one's, as a container demands."""
        wanted = self._last_tick + self._ticks_per_frame if self._last_tick >= 0 else 0
        if time_s is not None:
            wanted = round(time_s * _CLOCK_HZ)
        self._last_tick = max(wanted, self._last_tick + 1)
        return self._last_tick

    def _start(self, height: int, width: int) -> VideoStream:
        assert self._container is not None
        codec = "libx264" if "libx264" in av.codec.codecs_available else "mpeg4"
        rate = Fraction(self._fps).limit_denominator(1001)
        stream = self._container.add_stream(codec, rate=rate)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, _CLOCK_HZ if codec == "libx264" else 1000)
        # A key frame each second starts a fragment; with no frames held back little is lost by a kill.
        context.gop_size = max(1, round(self._fps))
        context.max_b_frames = 0
        context.thread_count = 1  # the other steps have the other cores
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
        if codec == "libx264":
            # `superfast` takes two thirds of the time of `veryfast`, for files a quarter larger.
            stream.options = {"preset": "superfast", "crf": "18", "rc-lookahead": "5"}
        else:
            context.bit_rate = int(height * width * self._fps * 0.2)
        return stream

    def _mux(self, picture: av.VideoFrame | None) -> None:
        assert self._stream is not None
        assert self._container is not None
        self._container.mux(self._stream.encode(picture))

    def __enter__(self) -> Self:
        check_video_target(self._target, overwrite=self._overwrite)
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(
                prefix=f"{self._target.stem}.partial-",
                suffix=self._target.suffix,
                dir=self._target.parent,
            )
            os.close(descriptor)
            self._temporary = Path(name)
            self._container = av.open(f"file:{name}", "w", options=_OPTIONS)
        except (av.FFmpegError, OSError) as error:
            raise self._not_written(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._container is not None
        assert self._temporary is not None
        try:
            if kind is None and self._stream is not None:
                self._mux(None)
                self._container.close()
                self._temporary.chmod(0o666 & ~umask())
                with self._temporary.open("rb") as file:
                    os.fsync(file.fileno())
                self._temporary.replace(self._target)
        except (av.FFmpegError, OSError) as failure:
            raise self._not_written(failure) from failure
        finally:
            with suppress(av.FFmpegError, OSError):
                self._container.close()
            self._temporary.unlink(missing_ok=True)

    def _not_written(self, error: Exception) -> OutputError:
        reason = getattr(error, "strerror", None) or error
        return OutputError(f"{self._target} cannot be written: {reason}")


def check_video_target(target: Path, *, overwrite: bool) -> None:
    """Refuse an output file before any work.

    Raises:
        UsageError: it exists and `overwrite` is off, or it is not a file.
        OutputError: its folder cannot be written.
    """
    if target.exists() and not target.is_file():
        raise UsageError(f"{target} must be a file, but it is not one. Try another --out")
    if target.exists() and not overwrite:
        raise UsageError(
            f"{target} must not exist yet, but it does. Try --overwrite or another --out"
        )
    parent = target.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputError(f"{target} cannot be written: {parent} is not a writable folder")


def _fitted(image_HW3: UInt8Array, height: int, width: int) -> UInt8Array:
    """The image in (height,width): one row or column repeated, or else shrunk or grown onto black."""
    rows, columns = height - image_HW3.shape[0], width - image_HW3.shape[1]
    if rows == columns == 0:
        return image_HW3
    if rows in (0, 1) and columns in (0, 1):
        return np.pad(image_HW3, ((0, rows), (0, columns), (0, 0)), mode="edge")
    scale = min(height / image_HW3.shape[0], width / image_HW3.shape[1])
    inner_height, inner_width = (max(1, int(side * scale)) for side in image_HW3.shape[:2])
    inner_HW3 = cv2.resize(image_HW3, (inner_width, inner_height), interpolation=cv2.INTER_AREA)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    fitted_HW3 = np.zeros((height, width, 3), np.uint8)
    fitted_HW3[top : top + inner_height, left : left + inner_width] = inner_HW3
    return fitted_HW3
