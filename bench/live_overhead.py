"""What the live loop costs over the inference alone: the same frames, bare and through the loop, in turns.

    python -m depthmask.bench.live_overhead --resolution 224 --rounds 3

`bare` calls the pipeline in a plain loop; `loop` puts frames from memory through the loop into nothing;
`video` decodes, draws the overlay and writes an mp4. Medians of the time from one frame to the next.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Self

import click
import cv2

from depthmask.bench.machine import this_machine
from depthmask.bench.pan_clip import pan_frames, write_pan_clip
from depthmask.commands import options
from depthmask.errors import InputError
from depthmask.frames import Resolution, UInt8Array
from depthmask.pipeline import Pipeline, Prediction
from depthmask.video.frame import Frame, SourceCounts, SourceKind
from depthmask.video.overlay import Look
from depthmask.video.runner import run
from depthmask.video.sources import open_source
from depthmask.video.video_file import VideoSink


class _Memory:
    """A source of frames that cost nothing."""

    kind: SourceKind = "video"
    name, fps, unreadable, counts = "memory", None, tuple[InputError, ...](), SourceCounts()

    def __init__(self, images: list[UInt8Array]) -> None:
        self._images = images
        self.count = len(images)

    def __iter__(self) -> Iterator[Frame]:
        for index, image_HW3 in enumerate(self._images):
            yield Frame(image_HW3, f"f{index}", index, None, time.monotonic())

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Nowhere(_Memory):
    """A sink that forgets."""

    is_open = True

    def __init__(self) -> None:
        super().__init__([])

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Nothing."""


def steps_ms(pipeline: Pipeline, images: list[UInt8Array], clip: Path, way: str) -> list[float]:
    """The times from one finished frame to the next, in milliseconds."""
    times_s: list[float] = []

    def tick(done: int = 0) -> None:
        times_s.append(time.perf_counter())

    if way == "bare":
        for image_HW3 in images:
            pipeline(image_HW3)
            tick()
    elif way == "loop":
        run(pipeline, _Memory(images), _Nowhere(), on_frame=tick)
    else:
        target = clip.with_name("out.mp4")
        with (
            open_source(str(clip)) as source,
            VideoSink(target, "overlay", Look(), fps=source.fps, overwrite=True) as sink,
        ):
            run(pipeline, source, sink, on_frame=tick, limit=len(images))
    return [1000 * (b - a) for a, b in pairwise(times_s)]


@click.command()
@options.resolutions_option
@options.runtime_option
@options.threads_option
@click.option("--frames", default=150, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def command(
    resolutions: tuple[Resolution, ...] | None,
    runtime: str,
    threads: int | None,
    frames: int,
    rounds: int,
) -> None:
    """Measure `lite`, and print JSON."""
    resolution = resolutions[0] if resolutions else Resolution(224, 224)
    cv2.setNumThreads(1)  # as `dmx run`
    found: dict[str, list[float]] = {"bare": [], "loop": [], "video": []}
    images = list(pan_frames(frames))
    with (
        tempfile.TemporaryDirectory() as folder,
        Pipeline.open(None, runtime, "cpu", threads, resolution=resolution) as alone,
        Pipeline.open(None, runtime, "cpu", threads, resolution=resolution, spin=False) as beside,
    ):
        pipelines = {"bare": alone, "loop": alone, "video": beside}
        clip = Path(folder) / "clip.mp4"
        write_pan_clip(clip, frames)
        for pipeline in (alone, beside):
            steps_ms(pipeline, images[:20], clip, "bare")
        for _ in range(rounds):
            for way, medians_ms in found.items():
                medians_ms.append(median(steps_ms(pipelines[way], images, clip, way)))
        name = alone.runtime.name
    click.echo(
        json.dumps(
            {
                "machine": this_machine().summary,
                "runtime": name,
                "resolution": str(resolution),
                "threads": threads,
                "frames": frames,
                "p50_ms_by_round": found,
                "over_bare": {
                    way: [
                        value / bare for value, bare in zip(found[way], found["bare"], strict=True)
                    ]
                    for way in ("loop", "video")
                },
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    command()
