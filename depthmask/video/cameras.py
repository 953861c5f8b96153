"""V4L2 cameras as live sources."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av

from depthmask.errors import UnavailableError, UsageError
from depthmask.video.live_source import OPEN_TIMEOUT_S, Connection, LiveOptions, LiveSource
from depthmask.video.streams import OpenedStream, StalledError, first_stream, reason
from depthmask.video.v4l2 import describe_camera

_RATE_TOLERANCE = 0.02
_MODES_NAMED = 8


@dataclass(frozen=True)
class CameraRequest:
    """What a camera is asked for; None leaves it to the camera."""

    format: str | None = None
    """`mjpeg`, `yuyv422` or another name of `list_cameras`."""
    width: int | None = None
    height: int | None = None
    rate_hz: float | None = None

    def __post_init__(self) -> None:
        if (self.width is None) != (self.height is None):
            raise UsageError("a camera's size must be width and height, but got one of them")


def open_camera(
    device: Path, request: CameraRequest | None = None, options: LiveOptions | None = None
) -> LiveSource:
    """Open a V4L2 camera, such as /dev/video0.

    Raises:
        UnavailableError: there is no such camera, it is in use, it does not offer what was asked for, or
            the system has no V4L2.
    """
    request, options = request or CameraRequest(), options or LiveOptions()

    def opened(timeout_s: float = OPEN_TIMEOUT_S) -> OpenedStream:
        return _open(device, request, options.stall_s)

    connection = Connection(opened, same_clock=True)
    return LiveSource(opened(), connection, f"camera {device}", options)


def _open(device: Path, request: CameraRequest, stall_s: float) -> OpenedStream:
    name = f"camera {device}"
    _check_there(device)
    before = _descriptors(device)
    try:
        container = av.open(str(device), format="v4l2", options=_demuxer_options(request))
    except (av.FFmpegError, OSError) as error:
        raise UnavailableError(
            f"{name} cannot be opened: {reason(error)}. It may be in use, or not be a camera."
            f"{_offers(device)}"
        ) from error
    stream = first_stream(container, "camera", name)
    opened = OpenedStream(
        container, stream, stall_s=stall_s, wait=_waiter(_descriptors(device) - before)
    )
    _check_granted(opened, request, device)
    return opened


def _check_there(device: Path) -> None:
    if not sys.platform.startswith("linux"):
        raise UnavailableError(f"camera {device} needs Linux (V4L2), but this is {sys.platform}")
    if not device.exists():
        there = sorted(map(str, Path("/dev").glob("video*")))
        found = f"there are: {', '.join(there)}" if there else "there is no camera on this machine"
        raise UnavailableError(f"camera {device} must exist, but it does not; {found}")


def _demuxer_options(request: CameraRequest) -> dict[str, str]:
    options = {}
    if request.format is not None:
        options["input_format"] = request.format
    if request.width is not None:
        options["video_size"] = f"{request.width}x{request.height}"
    if request.rate_hz is not None:
        options["framerate"] = f"{request.rate_hz:g}"
    return options


def _check_granted(opened: OpenedStream, request: CameraRequest, device: Path) -> None:
    """A driver takes the nearest of what it has, without a word."""
    stream = opened.stream
    problems = []
    if request.width is not None and (stream.width, stream.height) != (
        request.width,
        request.height,
    ):
        problems.append(
            f"{request.width}x{request.height} but gives {stream.width}x{stream.height}"
        )
    wanted_hz, rate_hz = request.rate_hz, opened.fps
    if wanted_hz and rate_hz and abs(rate_hz / wanted_hz - 1) > _RATE_TOLERANCE:
        problems.append(f"{wanted_hz:g} fps but gives {rate_hz:g}")
    if problems:
        opened.close()
        raise UnavailableError(
            f"camera {device} was asked for {', and '.join(problems)}.{_offers(device)}"
        )


def _offers(device: Path) -> str:
    camera = describe_camera(device)
    if camera is None or not camera.modes:
        return ""
    modes = [str(mode) for mode in camera.modes[:_MODES_NAMED]]
    more = "; and more, see --list-cameras" * (len(camera.modes) > _MODES_NAMED)
    return f" It offers: {'; '.join(modes)}{more}"


def _descriptors(device: Path) -> set[int]:
    """The descriptors of the device that our process has open."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            if link.readlink() == device.resolve():
                found.add(int(link.name))
        except OSError:  # closed since it was listed
            continue
    return found


def _waiter(descriptors: set[int]) -> Callable[[float], None]:
    """Waits for a picture: libavdevice itself would wait for ever."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)

    def wait(timeout_s: float) -> None:
        if descriptors and not poll.poll(1000 * timeout_s):
            raise StalledError(f"no picture came for {timeout_s:g} s")

    return wait
