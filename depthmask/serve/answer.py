"""What a request is answered with, and in which format: `?format=` and `?output=`, else the Accept header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from depthmask.serve.accept import weights
from depthmask.serve.refusal import Refusal

NPZ = "application/x-npz"
PNG = "image/png"
OUTPUTS = ("overlay", "mask", "depth")
# Of an Accept header, most specific first; the first of equals is the answer.
_ACCEPTED_AS = {
    NPZ: (NPZ, "application/zip", "application/octet-stream", "application/*", "*/*"),
    PNG: (PNG, "image/*", "*/*"),
}
_FORMATS = {"npz": NPZ, "png": PNG}


@dataclass(frozen=True)
class Answer:
    """A response, before any framework."""

    body: bytes
    media_type: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(
        cls,
        document: Any,  # noqa: ANN401
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """A document, on one line."""
        body = json.dumps(document, allow_nan=False).encode() + b"\n"
        return cls(body, "application/json", status, headers or {})


@dataclass(frozen=True)
class Wanted:
    """What a client wants of a prediction."""

    media_type: str
    """`NPZ` or `PNG`."""
    output: str | None
    """Of `OUTPUTS`, for PNG."""


def wanted(query: Mapping[str, str], accept: str) -> Wanted:
    """Read what a client wants.

    Args:
        query: `format` (npz or png) and `output` (overlay, mask or depth: of png only).
        accept: the Accept header; what `query` says goes before it.

    Raises:
        Refusal: 400 for a word that is not known, 406 where Accept allows neither format.
    """
    for name in query:
        if name not in ("format", "output"):
            raise _unknown("a parameter", "format or output", name)
    asked, output = query.get("format"), query.get("output")
    if output is not None and output not in OUTPUTS:
        raise _unknown("output", " or ".join(OUTPUTS), output)
    if asked is not None and asked not in _FORMATS:
        raise _unknown("format", " or ".join(_FORMATS), asked)
    if asked == "npz" and output is not None:
        raise Refusal(400, "query", "output is of format=png, but format is npz, which has all")
    if asked is None and output is None:
        media_type = _negotiated(accept or "*/*")
    else:
        media_type = _FORMATS[asked or "png"]
    return Wanted(media_type, (output or OUTPUTS[0]) if media_type == PNG else None)


def _unknown(what: str, known: str, got: str) -> Refusal:
    return Refusal(400, "query", f"{what} must be {known}, but got {got!r}")


def _negotiated(accept: str) -> str:
    """The media type with the highest weight."""
    given = weights(accept)
    weight_of = {
        media_type: next((given[name] for name in names if name in given), 0.0)
        for media_type, names in _ACCEPTED_AS.items()
    }
    best = max(weight_of, key=lambda media_type: weight_of[media_type])
    if weight_of[best] <= 0:
        raise Refusal(406, "accept", f"Accept must allow {NPZ} or {PNG}, but got {accept!r}")
    return best
