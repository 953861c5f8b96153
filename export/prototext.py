"""Protocol buffers' text format, as far as Triton's `config.pbtxt` needs it; no protobuf package.

Source: protobuf.dev/reference/protobuf/textformat-spec.
"""

from __future__ import annotations

import json
from typing import Any

Message = dict[str, Any]
"""By field: a number, a bool, a str, an `Enum`, a `Message`, or a list of these for a repeated field."""


class Enum(str):
    """A value that is written as a bare word."""

    __slots__ = ()


def prototext(message: Message, indent: int = 0) -> str:
    """A message, one field a line."""
    return "".join(
        _field(name, value, "  " * indent, indent)
        for name, values in message.items()
        for value in (values if isinstance(values, list) else [values])
    )


def _field(name: str, value: object, margin: str, indent: int) -> str:
    if isinstance(value, dict):
        return f"{margin}{name} {{\n{prototext(value, indent + 1)}{margin}}}\n"
    if isinstance(value, Enum):
        return f"{margin}{name}: {value}\n"
    # JSON writes numbers, bools and (escaped, ASCII) strings as the text format does.
    return f"{margin}{name}: {json.dumps(value)}\n"
