"""The routes: Starlette before a `Service`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthmask.serve.answer import Answer
from depthmask.serve.refusal import CLIENT_GONE, Refusal
from depthmask.serve.service import Service
from depthmask.serve.uploads import Receive
from depthmask.serve.web_folder import HEADERS, find_file

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Scope, Send

PREDICT = "/v1/predict"
_ENDPOINTS = {
    PREDICT: "predict",
    "/v1/model": "model",
    "/health/live": "live",
    "/health/ready": "ready",
    "/metrics": "metrics",
}
_INDEX = """\
depthmask: mask and depth of an image.

POST /v1/predict     a JPEG, PNG or WebP in; npz (mask, depth) out, or ?format=png&output=overlay|mask|depth
GET  /v1/model       what the model is
GET  /health/live    /health/ready    /metrics

  curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' \\
    'http://HOST:PORT/v1/predict?output=overlay' -o overlay.png
"""


def build_app(service: Service, web: Path | None) -> ASGIApp:
    """The whole application; `web` is the folder that is served at /."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    async def predict(request: Request) -> Response:
        received = _Received(request.receive)
        try:
            answer = await service.predict(request.headers, request.query_params, received)
        except Refusal:
            await received.discard(request)
            raise
        except asyncio.CancelledError:  # uvicorn's, when a drain is cut short
            raise Refusal(503, "stopped", "the service stopped before this was done") from None
        return _response(answer)

    def plain(answer: Callable[[], Awaitable[Answer]]) -> Callable[..., Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return _response(await answer())

        return endpoint

    async def page(request: Request) -> Response:
        return _index() if web is None else _web_response(web, request)

    app = Starlette(
        routes=[
            Route(PREDICT, predict, methods=["POST"]),
            Route("/v1/model", plain(service.model)),
            Route("/health/live", plain(service.live)),
            Route("/health/ready", plain(service.ready)),
            Route("/metrics", plain(service.metrics_text)),
            Route("/" if web is None else "/{path:path}", page),
        ],
        exception_handlers={
            Refusal: _refused,
            HTTPException: _http_error,
            Exception: _internal_error,
        },
    )
    app.state.service = service
    return _Observed(app, service)


class _Received:
    """ASGI's receive, which knows whether the body was read to its end."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_whole = False

    async def __call__(self) -> Message:
        message: Message = await self._receive()
        self._is_whole = not message.get("more_body", False)  # also of a disconnect
        return message

    async def discard(self, request: Request) -> None:
        """Read what is left of a refused body before a connection is closed.

        Otherwise the client's system drops the answer with the reset. Where the connection stays, uvicorn
        does it after the answer; a client that waits for 100 Continue sends nothing.
        """
        closes = (
            request.headers.get("connection", "").lower() == "close"
            or request.scope["http_version"] == "1.0"
        )
        while closes and "expect" not in request.headers and not self._is_whole:
            await self()


class _Observed:
    """Counts and times what goes through; an answer counts when it is sent."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        code = CLIENT_GONE
        is_prediction = scope["path"] == PREDICT and self._service.not_ready is None
        began_s = time.monotonic()

        async def observed_send(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        self._service.in_flight += is_prediction
        try:
            await self._app(scope, receive, observed_send)
        finally:
            self._service.in_flight -= is_prediction
            self._service.metrics.count(_ENDPOINTS.get(scope["path"], "page"), code)
            if is_prediction and code == 200:
                self._service.metrics.time_request(time.monotonic() - began_s)


def _response(answer: Answer) -> Response:
    from starlette.responses import Response

    return Response(answer.body, answer.status, dict(answer.headers), answer.media_type)


def _web_response(web: Path, request: Request) -> Response:
    from starlette.responses import FileResponse, Response

    path = request.scope["path"]
    found = find_file(web, path, request.headers.get("accept-encoding", ""))
    if found is None:
        answer = Answer.of_json({"error": f"there is no {path} here"}, 404, HEADERS)
        return _response(answer)
    headers = {**HEADERS, "Vary": "Accept-Encoding"}
    if found.encoding is not None:
        headers["Content-Encoding"] = found.encoding
    stat = found.path.stat()
    response = FileResponse(
        found.path, headers=headers, media_type=found.media_type, stat_result=stat
    )
    if response.headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={**headers, "ETag": response.headers["etag"]})
    return response


def _index() -> Response:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(_INDEX)


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    request.app.state.service.metrics.count_rejected(refusal.reason)
    return _response(Answer.of_json({"error": str(refusal)}, refusal.status, refusal.headers))


async def _http_error(request: Request, error: Any) -> Response:  # noqa: ANN401  (starlette's HTTPException)
    message = f"{request.method} {request.scope['path']}: {error.detail}"
    return _response(Answer.of_json({"error": message}, error.status_code, error.headers))


async def _internal_error(request: Request, error: Exception) -> Response:
    """Of a bug: uvicorn logs the traceback."""
    return _response(Answer.of_json({"error": "internal error"}, 500))
