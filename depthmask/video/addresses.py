"""Network streams and test patterns as sources of frames."""

from __future__ import annotations

import re

import av

from depthmask.errors import InputError, SourceLostError
from depthmask.video.live_source import (
    OPEN_TIMEOUT_S,
    Connection,
    LiveOptions,
    LiveSource,
)
from depthmask.video.names import without_credentials
from depthmask.video.streams import OpenedStream, first_stream, reason
from depthmask.video.video_source import VideoSource

# Opens an RTSP camera in 0.3 s instead of seconds, and keeps no queue of old frames.
_RTSP_OPTIONS = {
    "rtsp_transport": "tcp",
    "fflags": "nobuffer",
    "flags": "low_delay",
    "analyzeduration": "200000",
    "probesize": "100000",
}
_HTTP_OPTIONS = {"analyzeduration": "1000000"}
# Their demuxers number the pictures at a rate that they assume.
_WITHOUT_TIMESTAMPS = ("mpjpeg", "mjpeg", "h264", "hevc")


def open_url(url: str, options: LiveOptions) -> LiveSource | VideoSource:
    """Open an rtsp:// or http(s):// source; one that declares its duration is a video, else it is live.

    Raises:
        InputError: the server says that there is no such thing, or it is not a video.
        SourceLostError: the server does not answer.
    """
    name = without_credentials(url)
    first = _open(url, name, OPEN_TIMEOUT_S, options.stall_s)
    if not url.lower().startswith("rtsp") and first.container.duration:
        return VideoSource(first, name)
    connection = Connection(
        open=lambda timeout_s: _open(url, name, timeout_s, options.stall_s),
        has_timestamps=first.container.format.name not in _WITHOUT_TIMESTAMPS,
    )
    return LiveSource(first, connection, name, options)


def open_pattern(text: str, options: LiveOptions) -> LiveSource | VideoSource:
    """Open `lavfi:GRAPH`, such as `lavfi:testsrc2=size=640x480:rate=25`.

    With the filter `realtime` in it, it comes at its own pace, as a camera does; else as fast as it is taken.

    Raises:
        InputError: libavfilter does not know such a graph.
    """
    graph = text.split(":", 1)[1]

    try:
        container = av.open(graph, format="lavfi")
    except (av.FFmpegError, ValueError) as error:
        raise InputError(
            f"{text} must be a test pattern, such as lavfi:testsrc2, but got: {reason(error)}"
        ) from error
    opened = OpenedStream(container, first_stream(container, "camera", text))
    if re.search(r"\brealtime\b", graph):
        return LiveSource(opened, None, text, options)
    return VideoSource(opened, text)


def _open(url: str, name: str, open_timeout_s: float, stall_s: float) -> OpenedStream:
    """Open an address that may be live."""
    is_rtsp = url.lower().startswith("rtsp")
    options = _RTSP_OPTIONS if is_rtsp else _HTTP_OPTIONS
    # When a read times out, libavformat first hands out the frame that its parser held back, as if it
    # had just come; only the next read fails.
    read_timeout_s = stall_s / 2 if is_rtsp else stall_s
    problem: InputError | SourceLostError
    try:
        container = av.open(
            url,
            options=options,
            timeout=(open_timeout_s, read_timeout_s),
            metadata_errors="replace",
        )
    except (av.error.HTTPClientError, av.error.InvalidDataError) as error:
        problem = InputError(f"{name} must be a video stream, but got: {reason(error)}")
    except av.FFmpegError as error:
        problem = SourceLostError(f"{name} cannot be opened: {reason(error)}")
    else:
        stream = first_stream(container, "camera", name)
        return OpenedStream(container, stream, stall_s=stall_s)
    # Not chained, as PyAV's error holds the address with its password.
    raise problem
