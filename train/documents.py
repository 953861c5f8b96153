"""Documents that a user writes: recipes and training configurations, in YAML or JSON.

A document is checked as a whole: every unknown or repeated key, wrong type and value out of range is
named at once, in one line. A name without a suffix, such as `reference`, is a configuration that ships.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
import types
from collections import Counter, defaultdict
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from depthmask.errors import DepthmaskError, InputError, UnavailableError, UsageError

if TYPE_CHECKING:
    from depthmask.train.recipe import Recipe

T = TypeVar("T")
_SUFFIXES = (".yaml", ".yml", ".json")
_MOST_VALUES = 100_000


def read_document(path_or_name: Path | str, wanted: type[T]) -> T:
    """Read a document as a `wanted` (a msgspec Struct, or a union of tagged ones).

    Raises:
        InputError: it is missing, not YAML or JSON, or has errors: all are named.
        UnavailableError: it is YAML, and PyYAML is not installed.

    """
    path = find_document(path_or_name)
    content, repeated = load_document(path)
    return check_document(content, wanted, str(path), repeated=repeated)


def read_recipe(path_or_name: Path | str) -> Recipe:
    """Read a recipe: a document of its own (of kind `stage` where it names none), or the section
    `recipe` of a training configuration.

    Raises:
        InputError: as `read_document`.
        UnavailableError: as `read_document`.

    """
    from depthmask.train.recipe import Recipe

    path = find_document(path_or_name)
    content, repeated = load_document(path)
    where = ""
    if isinstance(content, dict) and "kind" not in content:
        if "recipe" in content:
            content, where = content["recipe"], "recipe"
        else:
            content = {"kind": "stage", **content}
    return check_document(content, Recipe, str(path), where=where, repeated=repeated)  # type: ignore


def find_document(path_or_name: Path | str) -> Path:
    """The file itself, or the shipped configuration of that name.

    Raises:
        InputError: there is neither.

    """
    path = Path(path_or_name)
    if path.suffix or len(path.parts) != 1 or path.is_file():
        return path
    shipped = Path(str(resources.files("depthmask.configs")))
    found = shipped / f"{path}.yaml"
    if not found.is_file():
        names = ", ".join(sorted(file.stem for file in shipped.glob("*.yaml")))
        raise InputError(
            f"a document must be a file ({', '.join(_SUFFIXES)}) or one of those that ship"
            f" ({names}), but got {path}"
        )
    return found


def load_document(path: Path) -> tuple[object, list[str]]:
    """Decode a document into lists, dicts and plain values, without checking them.

    Returns:
        The content, of a repeated key the last value; and the errors of repeated keys.

    Raises:
        InputError: it is missing, or not YAML or JSON.
        UnavailableError: it is YAML, and PyYAML is not installed.

    """
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".json":
            return _load_json(content)
        return _load_yaml(content)
    except ImportError as error:
        raise UnavailableError(
            f"{path} is YAML, which needs PyYAML, but that is not installed. Try `pip install"
            " pyyaml`, or a document in JSON"
        ) from error
    except OSError as error:
        raise InputError(f"{path} must be a document, but: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        message = " ".join(str(error).split())
        raise InputError(f"{path} must be YAML or JSON, but got: {message}") from error


def check_document(
    content: object, wanted: type[T], name: str, *, where: str = "", repeated: Sequence[str] = ()
) -> T:
    """Convert what `load_document` gave; `name` and `where`, the place in it, are for messages.

    Raises:
        InputError: it has errors: all are named.

    """
    errors = [*repeated, *_errors(content, wanted, where)]
    if not errors:
        try:
            return msgspec.convert(content, wanted)
        except (msgspec.ValidationError, DepthmaskError) as error:
            errors = [str(error)]
    found = "this error" if len(errors) == 1 else f"these {len(errors)} errors"
    raise InputError(f"{name} must be without errors, but has {found}: {'; '.join(errors)}")


def check_ranges(struct: msgspec.Struct) -> None:
    """Hold a struct that was made in Python to the ranges of its annotations.

    Raises:
        UsageError: some are not kept: all are named.

    """
    fields = msgspec.structs.fields(struct)
    values = [(field.encode_name, getattr(struct, field.name), field.type) for field in fields]
    errors = [error for name, value, kind in values for error in _leaf_errors(value, kind, name)]
    if errors:
        raise UsageError("; ".join(errors))


class _Pairs(list[tuple[str, object]]):
    """An object of a JSON document, as its keys come."""


def _load_json(content: bytes) -> tuple[object, list[str]]:
    errors: list[str] = []

    def plain(value: object, where: str) -> object:
        if isinstance(value, _Pairs):
            errors.extend(
                f"{_place(where, key)} must be given once, but is given {times} times"
                for key, times in Counter(key for key, _ in value).items()
                if times > 1
            )
            return {key: plain(part, _place(where, key)) for key, part in value}
        if isinstance(value, list):
            return [plain(part, f"{where}[{number}]") for number, part in enumerate(value)]
        return value

    return plain(json.loads(content, object_pairs_hook=_Pairs), ""), errors


def _load_yaml(content: bytes) -> tuple[object, list[str]]:
    import yaml  # type: ignore[import-untyped]

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    errors: list[str] = []
    seen: set[int] = set()  # an alias is the node that it names

    def find(node: Any, where: str) -> None:  # noqa: ANN401
        if id(node) in seen:
            return
        seen.add(id(node))
        if node.id == "sequence":
            for number, part in enumerate(node.value):
                find(part, f"{where}[{number}]")
        if node.id == "mapping":
            lines = defaultdict(list)
            for key, part in node.value:
                lines[key.tag, str(key.value)].append(str(key.start_mark.line + 1))
                find(part, _place(where, key.value))
            errors.extend(
                f"{_place(where, key)} must be given once, but is on the lines {', '.join(found)}"
                for (_, key), found in lines.items()
                if len(found) > 1
            )

    try:
        root = yaml.compose(content, loader)
        if root is not None:
            if _written_out(root, {}) > _MOST_VALUES:
                raise ValueError(f"its aliases stand for more than {_MOST_VALUES} values")
            find(root, "")
        return yaml.load(content, loader), errors
    except yaml.YAMLError as error:
        raise ValueError(error) from error


def _written_out(node: Any, counted: dict[int, float]) -> float:  # noqa: ANN401
    """How many values a node stands for, its aliases written out; endless where it holds itself."""
    if id(node) not in counted:
        counted[id(node)] = math.inf  # until its parts are counted
        parts = node.value if node.id in ("sequence", "mapping") else ()
        flat = itertools.chain.from_iterable(parts) if node.id == "mapping" else parts
        counted[id(node)] = 1 + sum(_written_out(part, counted) for part in flat)
    return counted[id(node)]


def _errors(content: object, wanted: Any, where: str) -> list[str]:  # noqa: ANN401
    """All errors of a part of a document; `where` is its place, such as `recipe.seed`."""
    options = _options(wanted)
    structs = [option for option in options if _is_struct(option)]
    if isinstance(content, dict) and structs:
        return _struct_errors(content, structs, where)
    if isinstance(content, list) and any(_is_struct(part) for o in options for part in get_args(o)):
        element = next(part for o in options for part in get_args(o) if _is_struct(part))
        places = [(f"{where}[{number}]", value) for number, value in enumerate(content)]
        return [error for place, value in places for error in _errors(value, element, place)]
    return _leaf_errors(content, wanted, where)


def _struct_errors(content: dict[Any, Any], structs: list[Any], where: str) -> list[str]:
    chosen = structs[0]
    tag_field = chosen.__struct_config__.tag_field
    if len(structs) > 1:
        tags = {struct.__struct_config__.tag: struct for struct in structs}
        tag = content.get(tag_field)
        chosen = tags.get(tag) if isinstance(tag, str) else None
        if chosen is None:
            found = f"got {content[tag_field]!r}" if tag_field in content else "is missing"
            return [f"{_place(where, tag_field)} must be one of {', '.join(tags)}, but {found}"]
    fields = {field.encode_name: field for field in msgspec.structs.fields(chosen)}
    errors = []
    for key, value in content.items():
        if key in fields:
            errors += _errors(value, fields[key].type, _place(where, key))
        elif key != tag_field:
            errors.append(f"{_place(where, key)} is not a known key{_nearest(key, list(fields))}")
    errors += [
        f"{_place(where, name)} is missing"
        for name, field in fields.items()
        if field.required and name not in content
    ]
    if errors:
        return errors
    try:
        msgspec.convert(content, chosen)
    except (msgspec.ValidationError, DepthmaskError) as error:  # of __post_init__
        prefix = f"{where}: " if where else ""
        return [f"{prefix}{error}"]
    return []


def _leaf_errors(value: object, wanted: Any, where: str) -> list[str]:  # noqa: ANN401
    try:
        msgspec.convert(value, wanted, from_attributes=False)
    except (msgspec.ValidationError, DepthmaskError) as error:
        message = re.sub(r", got (`.*?`|\w+)(?= - at|$)", "", str(error))
        message = message.replace("Expected", "must be", 1).replace("`", "")
        for name, plain in (("array", "a list"), ("object", "a mapping")):
            message = message.replace(f"must be {name}", f"must be {plain}")
        if get_origin(wanted) is Literal:
            message = f"must be one of {', '.join(map(str, get_args(wanted)))}"
        hint = ""
        if isinstance(value, str) and _is_number(value):
            hint = " (a number in YAML needs a point before its exponent: 1.0e-3)"
        return [f"{where or 'it'} {message}, but got {value!r}{hint}"]
    if not _is_finite(value):
        return [f"{where or 'it'} must be finite, but got {value!r}"]
    return []


def _is_finite(value: object) -> bool:
    """Of a number, or of all in a list: JSON, in which configurations are recorded, has no others."""
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _options(wanted: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return get_args(wanted) if get_origin(wanted) in (Union, types.UnionType) else (wanted,)


def _is_struct(wanted: object) -> bool:
    return isinstance(wanted, type) and issubclass(wanted, msgspec.Struct)


def _place(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _nearest(key: object, names: list[str]) -> str:
    close = difflib.get_close_matches(str(key), names, 1)
    return f" (is {close[0]} meant?)" if close else f" (known: {', '.join(names)})"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
