"""Accept and Accept-Encoding (RFC 9110, 12.4.2 and 12.5)."""

from __future__ import annotations


def weights(header: str) -> dict[str, float]:
    """What a header's list gives each of its words, in lower case; 1 without q, 0 with a bad one."""
    found: dict[str, float] = {}
    for part in header.lower().split(","):
        word, *parameters = (piece.strip() for piece in part.split(";"))
        if word:
            found[word] = min(map(_weight, parameters), default=1.0)
    return found


def _weight(parameter: str) -> float:
    name, _, value = parameter.partition("=")
    try:
        return float(value) if name.strip() == "q" else 1.0
    except ValueError:
        return 0.0
