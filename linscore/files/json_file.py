"""JSON as linscore writes it, and as others may have damaged it: read by the type annotations of a dataclass.

All of it fits, or one line says why.

A field whose key is missing takes its default, so a field that a later version adds must have one.
"""

from __future__ import annotations

import json
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from linscore.errors import LinscoreError, reason
from linscore.files.places import read_places, written_places
from linscore.files.regular import check_regular, read_text

__all__ = ["NOT_IN_FILES", "MisfitError", "build", "fitted", "json_text", "missing_keys", "parse_json", "read_json"]

T = TypeVar("T")
NOT_IN_FILES = {"in_files": False}  # metadata of a field that has no key
MOST_BYTES = 64 << 20  # the largest reports, all spans of 126 blocks, have 12 MB
DEEPEST = 32
NAMES = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", dict: "keys", list: "a list"}


class MisfitError(ValueError):
    """A value of another type: `found` says which, `wanted` what should be there."""

    def __init__(self, name: str, value: Any, wanted: str) -> None:
        self.found, self.wanted = f"{name} is {reprlib.repr(value)}", wanted
        super().__init__(f"{self.found}, not {wanted}")


def read_json(path: str | Path, kind: type[T], *, damaged: str, most_bytes: int = MOST_BYTES) -> T:
    """The content of a JSON file as `kind`: a dataclass, or any annotation that `fitted` takes; places absolute again.

    Raises:
        LinscoreError: when it is no file, or, with the words `damaged` behind the path, holds something else or more
            than `most_bytes`.
    """
    instead = "give one that linscore has written"
    check_regular(Path(path), instead)
    try:
        content = parse_json(read_text(Path(path), most_bytes, instead))
        return fitted(kind, read_places(content, Path(path).parent), "it")
    except (OSError, ValueError) as error:  # a LinscoreError too: of a dataclass that checks what it is made of
        raise LinscoreError(f"{path} {damaged} ({reason(error)})") from error


def json_text(data: Any, folder: str | Path | None = None) -> str:
    """The text of a file that holds `data`; a number that is not finite is null: a run is not lost over one figure.

    Args:
        data: of what JSON knows.
        folder: where the file is to lie, from which its places are written; None: it is shown, and says what was typed.
    """
    placed = data if folder is None else written_places(data, folder)
    return json.dumps(_finite(placed), indent=2, allow_nan=False) + "\n"


def parse_json(text: str) -> Any:
    """What a JSON text holds; NaN and Infinity, which are no JSON but common, become floats.

    Raises:
        ValueError: when it is none, has a key twice, or is nested deeper than anything of linscore's.
    """
    try:
        found = json.loads(text, object_pairs_hook=_without_repetition)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST}") from None
    level = [found]
    for _ in range(DEEPEST + 1):
        parts = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [inner for part in parts for inner in part]
    if level:
        raise ValueError(f"it is nested deeper than {DEEPEST}")
    return found


def fitted(kind: Any, value: Any, name: str) -> Any:
    """`value`, which errors call `name`, as the annotation `kind` says.

    A whole number may stand for a float and becomes one; a bool is no number, and a float must be finite: also within
    `Any`, where `object` lets everything pass.

    Raises:
        ValueError: when it does not fit; a `MisfitError` where it is of another type.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is object:
        return value
    if kind is Any:
        if _finite(value) != value:
            raise MisfitError(name, value, "finite throughout")
        return value
    if origin in (typing.Union, types.UnionType):
        [other] = [one for one in inner if one is not types.NoneType]  # files hold no other unions
        return None if value is None else fitted(other, value, name)
    if origin is typing.Literal:
        if value not in inner:
            raise MisfitError(name, value, f"one of {', '.join(inner)}")
        return value
    if is_dataclass(kind):
        return build(kind, _plain(dict, value, name), "" if name == "it" else f"{name}.")
    if origin is dict:
        return {key: fitted(inner[1], one, f"{name}.{key}") for key, one in _plain(dict, value, name).items()}
    if origin in (list, tuple):
        items = _plain(list, value, name)
        kinds = inner if origin is tuple else inner * len(items)
        if len(kinds) != len(items):
            raise MisfitError(name, value, f"a list of {len(kinds)}")
        return origin(fitted(one, items[i], f"{name}[{i}]") for i, one in enumerate(kinds))
    return _plain(kind, value, name)


def build(kind: Any, data: Mapping[str, Any], inside: str = "") -> Any:
    """The dataclass `kind` with the values of `data`, which errors call `inside` and their key.

    Raises:
        ValueError: for a key that is unknown or missing, or a value that does not fit.
    """
    hints = _hints(kind)
    for key in data:
        if key not in hints:
            raise ValueError(f"{inside}{key} is unknown to this linscore: a newer one may have written it")
    for key in missing_keys(kind, data):
        raise ValueError(f"{inside}{key} is missing")
    return kind(**{key: fitted(hints[key], value, f"{inside}{key}") for key, value in data.items()})


def missing_keys(kind: Any, data: Mapping[str, Any]) -> list[str]:
    """The fields of the dataclass `kind` that are not in `data` and have no default."""
    needed = [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]
    return [name for name in needed if name not in data]


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {one.name: hints[one.name] for one in fields(kind) if one.metadata != NOT_IN_FILES}


def _plain(kind: Any, value: Any, name: str) -> Any:
    """`value` as one of the types that JSON knows."""
    if kind is float and type(value) is int and abs(value) < 2**1023:
        value = float(value)
    if type(value) is not kind:
        raise MisfitError(name, value, NAMES[kind])
    if kind is float and not math.isfinite(value):
        raise MisfitError(name, value, "a finite number")
    return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key stands there twice, of {reprlib.repr(list(found))}")
    return found
