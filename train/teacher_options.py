"""How a teacher network wants its images and what its output means, and the command line's form of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from depthmask.errors import UsageError
from depthmask.frames import Resolution

Layout = Literal["nchw", "nhwc"]
Triple = tuple[float, float, float]
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TeacherOptions:
    """What a teacher's graph does not say; None leaves it to the graph, or to the kind of teacher.

    The network gets (RGB scaled to `value_range` - mean) / std; `size` is for graphs of dynamic size.
    """

    input: str | None = None
    layout: Layout | None = None
    size: Resolution | None = None
    value_range: tuple[float, float] = (0.0, 1.0)
    mean: Triple | None = None
    std: Triple | None = None
    output: str | None = None
    inverse: bool = False
    """Depth: the output grows towards the camera; its reciprocal is the depth."""
    sigmoid: bool = False
    """Mask: the output is a logit."""

    def __post_init__(self) -> None:
        low, high = self.value_range
        if not low < high:
            raise UsageError(
                f"a teacher's range must be LOW..HIGH with LOW below HIGH, but got {low:g}..{high:g}"
            )
        if self.std is not None and min(self.std) <= 0:
            raise UsageError(f"a teacher's std must be above 0, but got {self.std}")

    @property
    def scales(self) -> bool:
        """Whether range, mean or std were given."""
        return self.value_range != (0.0, 1.0) or self.mean is not None or self.std is not None


def with_imagenet(options: TeacherOptions) -> TeacherOptions:
    """ImageNet's mean and std, in units of the range, where neither is given."""
    if options.mean is not None or options.std is not None:
        return options
    low, high = options.value_range
    red, green, blue = (low + (high - low) * mean for mean in _IMAGENET_MEAN)
    mean = (red, green, blue)
    red, green, blue = ((high - low) * std for std in _IMAGENET_STD)
    return replace(options, mean=mean, std=(red, green, blue))


def parse_teacher(text: str) -> tuple[Path, TeacherOptions]:
    """`[teacher=]MODEL.onnx[,KEY=VALUE...]` as the model's path and its options.

    The keys are input, layout (nchw, nhwc), size (H or HxW), range (0..1), mean and std (R:G:B),
    output; the flags are inverse and sigmoid.

    Raises:
        UsageError: a key is unknown or given twice, or a value cannot be used.

    """
    path, *parts = text.removeprefix("teacher=").split(",")
    if not path or ("=" in path and path.partition("=")[0] in _KEYS):
        raise UsageError(
            f"a teacher must be teacher=MODEL.onnx[,KEY=VALUE...], but got {text!r}. The keys are"
            f" {', '.join(_KEYS)}"
        )
    values: dict[str, object] = {}
    for part in parts:
        key, mark, value = part.partition("=")
        if key not in _KEYS:
            raise UsageError(
                f"a teacher's option must be one of {', '.join(_KEYS)}, but got {key!r}"
            )
        field, parse = _KEYS[key]
        if field in values:
            raise UsageError(f"a teacher's option must be given once, but got {key} twice")
        values[field] = parse(value if mark else None, key)
    return Path(path), TeacherOptions(**values)  # type: ignore[arg-type]


def _text(value: str | None, key: str) -> str:
    if not value:
        raise UsageError(f"a teacher's option {key} must have a value, such as {key}={_HINTS[key]}")
    return value


def _layout(value: str | None, key: str) -> str:
    layout = _text(value, key).lower()
    if layout not in ("nchw", "nhwc"):
        raise UsageError(f"a teacher's layout must be nchw or nhwc, but got {value!r}")
    return layout


def _size(value: str | None, key: str) -> Resolution:
    return Resolution.parse(_text(value, key))


def _range(value: str | None, key: str) -> tuple[float, float]:
    number = r"(-?\d+(?:\.\d+)?)"
    match = re.fullmatch(rf"{number}\.\.{number}", _text(value, key))
    if match is None:
        raise UsageError(
            f"a teacher's range must be LOW..HIGH, such as 0..1 or 0..255, but got {value!r}"
        )
    return float(match[1]), float(match[2])


def _triple(value: str | None, key: str) -> Triple:
    try:
        red, green, blue = (float(part) for part in _text(value, key).split(":"))
    except ValueError:
        raise UsageError(
            f"a teacher's {key} must be three numbers such as {_HINTS[key]}, but got {value!r}"
        ) from None
    return red, green, blue


def _flag(value: str | None, key: str) -> bool:
    if value is not None:
        raise UsageError(f"a teacher's option {key} is a flag without a value, but got {value!r}")
    return True


_HINTS: Mapping[str, str] = {
    "input": "NAME",
    "layout": "nhwc",
    "size": "224",
    "range": "0..1",
    "mean": "0.485:0.456:0.406",
    "std": "0.229:0.224:0.225",
    "output": "NAME",
}
_KEYS: Mapping[str, tuple[str, Callable[[str | None, str], object]]] = {
    "input": ("input", _text),
    "layout": ("layout", _layout),
    "size": ("size", _size),
    "range": ("value_range", _range),
    "mean": ("mean", _triple),
    "std": ("std", _triple),
    "output": ("output", _text),
    "inverse": ("inverse", _flag),
    "sigmoid": ("sigmoid", _flag),
}
