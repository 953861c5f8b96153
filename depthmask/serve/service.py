"""The answers of the service, before any framework: headers, query and body in, an `Answer` out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from depthmask.errors import CheckFailedError
from depthmask.serve.answer import Answer, Wanted, wanted
from depthmask.serve.metrics import ServiceMetrics
from depthmask.serve.predicting import IMAGE_TYPES, Predicted, check_image, predict
from depthmask.serve.refusal import CLIENT_GONE, Refusal
from depthmask.serve.settings import ServeSettings
from depthmask.serve.uploads import Receive, Uploads
from depthmask.serve.worker import PipelineWorker, QueueFullError
from depthmask.version import __version__

if TYPE_CHECKING:
    from depthmask.pipeline import Pipeline

_POLL_S = 0.02


class Service:
    """A bundle's service; all but the worker's part runs on one event loop."""

    def __init__(self, open_pipeline: Callable[[], Pipeline], settings: ServeSettings) -> None:
        self.settings = settings
        self.worker = PipelineWorker(open_pipeline, settings.queue)
        self.metrics = ServiceMetrics(lambda: self.in_flight, lambda: self.worker.waiting)
        self.is_draining = False
        self.in_flight = 0
        """Predictions whose clients have not got their answers yet; app.py counts."""
        self._uploads = Uploads(settings.max_upload_bytes, settings.uploads_bytes)

    @property
    def not_ready(self) -> str | None:
        """Why no prediction is accepted; None where they are."""
        if self.is_draining:
            return "the service is stopping"
        if not self.worker.opened.done():
            return "the service is starting"
        return None

    async def predict(
        self, headers: Mapping[str, str], query: Mapping[str, str], receive: Receive
    ) -> Answer:
        """POST /v1/predict.

        Raises:
            Refusal: the request is not served.
        """
        if self.not_ready is not None:
            raise Refusal(503, "not_ready", self.not_ready, {"Retry-After": "1"})
        asked = wanted(query, headers.get("accept", ""))
        media_type = _media_type(headers)
        self._uploads.check_length(headers)
        if self.worker.is_full:
            raise self._queue_full()
        async with self._uploads.read(receive) as data:
            check_image(data, media_type, self.settings.max_pixels)
            predicted = await self._predicted(data, asked, receive)
        self.metrics.time_inference(predicted.inference_s)
        return predicted.answer

    async def model(self) -> Answer:
        """GET /v1/model: the manifest's summary, and the limits.

        Raises:
            Refusal: 503, the bundle is not open yet.
        """
        if not self.worker.opened.done():
            raise Refusal(503, "not_ready", "the service is starting", {"Retry-After": "1"})
        return Answer.of_json(describe(self.worker.opened.result(), self.settings))

    async def live(self) -> Answer:
        """GET /health/live: the process answers."""
        return Answer.of_json({"status": "live"})

    async def ready(self) -> Answer:
        """GET /health/ready: predictions are accepted.

        Raises:
            Refusal: 503, not yet or not any more.
        """
        if self.not_ready is not None:
            raise Refusal(503, "not_ready", self.not_ready, {"Retry-After": "1"})
        return Answer.of_json({"status": "ready"})

    async def metrics_text(self) -> Answer:
        """GET /metrics."""
        return Answer(*self.metrics.render())

    async def drained(self) -> None:
        """Accept no more, and wait until all that was accepted is answered."""
        self.is_draining = True
        while self.in_flight:
            await asyncio.sleep(_POLL_S)

    async def _predicted(self, data: bytes, asked: Wanted, receive: Receive) -> Predicted:
        """Queue the work and wait for it, or for the client to leave."""
        try:
            future = self.worker.submit(partial(predict, data, asked))
        except QueueFullError:
            raise self._queue_full() from None
        try:
            return await _result_unless_gone(future, receive)
        except CheckFailedError as error:
            raise Refusal(500, "failed", " ".join(str(error).split())) from error

    def _queue_full(self) -> Refusal:
        return Refusal(
            429,
            "queue_full",
            f"{self.settings.queue} requests wait already",
            {"Retry-After": str(self.worker.wait_s)},
        )


async def _result_unless_gone(future: Future[Predicted], receive: Receive) -> Predicted:
    result = asyncio.wrap_future(future)
    gone = asyncio.create_task(_disconnected(receive))
    awaited: tuple[asyncio.Future[Any], ...] = (result, gone)
    try:
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise Refusal(CLIENT_GONE, "gone", "the client left")
        return result.result()
    finally:
        gone.cancel()
        result.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _media_type(headers: Mapping[str, str]) -> str:
    """What the client says that the body is.

    Raises:
        Refusal: 415.
    """
    known = ", ".join(IMAGE_TYPES)
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in IMAGE_TYPES:
        raise Refusal(
            415, "media_type", f"Content-Type must be one of {known}, but got {media_type!r}"
        )
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise Refusal(415, "media_type", f"Content-Encoding must be identity, but got {encoding!r}")
    return media_type


def describe(pipeline: Pipeline, settings: ServeSettings) -> dict[str, object]:
    """What GET /v1/model says."""
    manifest = pipeline.manifest
    return {
        "depthmask": __version__,
        "preset": manifest.chain.preset,
        "kind": manifest.chain.kind,
        "depth_unit": manifest.chain.depth_unit,
        "input": manifest.input,
        "resolution": str(pipeline.resolution),
        "resolutions": [str(resolution) for resolution in manifest.resolutions],
        "precision": manifest.precision,
        "runtime": pipeline.runtime.name,
        "device": pipeline.runtime.device,
        "digest": pipeline.bundle.digest,
        "accepts": list(IMAGE_TYPES),
        "max_upload_bytes": settings.max_upload_bytes,
        "max_pixels": settings.max_pixels,
        "queue": settings.queue,
    }
