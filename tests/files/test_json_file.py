"""JSON by type annotations: what fits is read, and every damage is one line that says where it is."""

import json
import os
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from linscore.errors import LinscoreError
from linscore.files.json_file import NOT_IN_FILES, json_text, parse_json, read_json

DAMAGED = "is damaged: write it again"


@dataclass(frozen=True)
class Part:
    size: float
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Whole:
    kind: Literal["one", "two"]
    count: int
    flag: bool
    parts: list[Part]
    by_name: dict[str, Part]
    pair: tuple[int, str]
    maybe: Part | None = None
    anything: Any = None
    held: list[int] = field(default_factory=list, metadata=NOT_IN_FILES)


GOOD = {
    "kind": "two",
    "count": 3,
    "flag": True,
    "parts": [{"size": 1}, {"size": 0.5, "names": ["a"]}],
    "by_name": {"x": {"size": 2.0}},
    "pair": [1, "b"],
    "anything": {"a": [None, {}]},
}


def read(path, content, kind=Whole, **options):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_json(path, kind, damaged=DAMAGED, **options)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.json"


def test_what_fits_is_read(path):
    found = read(path, GOOD)
    assert found == Whole(
        *("two", 3, True, [Part(1.0), Part(0.5, ["a"])], {"x": Part(2.0)}, (1, "b")), None, {"a": [None, {}]}
    )
    assert type(found.parts[0].size) is float  # a whole number may stand for one
    assert read(path, GOOD | {"maybe": {"size": 3}}).maybe == Part(3.0)
    assert read(path, [[1], []], list[list[int]]) == [[1], []]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "three"}, "kind is 'three', not one of one, two"),
        ({"kind": ["one"]}, r"kind is \['one'\], not one of one, two"),
        ({"count": "3"}, "count is '3', not a whole number"),
        ({"count": 3.0}, "count is 3.0, not a whole number"),
        ({"count": True}, "count is True, not a whole number"),
        ({"count": None}, "count is None, not a whole number"),
        ({"flag": 1}, "flag is 1, not true or false"),
        ({"parts": {}}, "parts is {}, not a list"),
        ({"parts": [{"size": 1}, []]}, r"parts\[1\] is \[\], not keys"),
        ({"parts": [{"size": True}]}, r"parts\[0\].size is True, not a number"),
        ({"parts": [{"size": 1, "names": [2]}]}, r"parts\[0\].names\[0\] is 2, not a word"),
        ({"by_name": {"x": {}}}, r"by_name.x.size is missing"),
        ({"by_name": {"x": {"size": 1, "more": 2}}}, r"by_name.x.more is unknown to this linscore: a newer one"),
        ({"pair": [1]}, r"pair is \[1\], not a list of 2"),
        ({"pair": ["b", 1]}, r"pair\[0\] is 'b', not a whole number"),
        ({"maybe": 3}, "maybe is 3, not keys"),
        ({"later": 1}, "later is unknown to this linscore: a newer one may have written it"),
        ({"held": [1]}, "held is unknown"),
    ],
)
def test_what_does_not_fit_is_named(path, changes, message):
    with pytest.raises(LinscoreError, match=rf"file\.json {DAMAGED} \({message}") as caught:
        read(path, GOOD | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["kind", "count", "parts", "pair"])
def test_a_key_that_is_missing_is_named(path, key):
    with pytest.raises(LinscoreError, match=rf"{DAMAGED} \({key} is missing\)"):
        read(path, {name: value for name, value in GOOD.items() if name != key})


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", '"a"', json.dumps(GOOD)[:-20]])
def test_what_is_cut_short_or_something_else_is_damage(path, content):
    with pytest.raises(LinscoreError, match=rf"{DAMAGED} \("):
        read(path, content)


def test_bytes_that_are_no_text_are_damage(path):
    path.write_bytes(b'{"kind": "\xff"}')
    with pytest.raises(LinscoreError, match=DAMAGED):
        read_json(path, Whole, damaged=DAMAGED)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400, "1" * 5000])
def test_a_number_must_be_one(path, number):
    with pytest.raises(LinscoreError, match=DAMAGED):
        read(path, f'{{"size": {number}}}', Part)


def test_a_key_that_is_there_twice_is_damage(path):
    with pytest.raises(LinscoreError, match=r"twice.*size"):
        read(path, '{"size": 1, "size": 2}', Part)


@pytest.mark.parametrize("depth", [100, 1_000_000])
@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_damage(path, depth, opens, closes):
    deep = opens * depth + "1" + closes * depth
    with pytest.raises(LinscoreError, match=rf"{DAMAGED} \(it is nested deeper than 32"):
        read(path, deep, dict[str, Any])


def test_nesting_has_a_limit_that_nothing_of_ours_reaches():
    assert parse_json("[" * 32 + "]" * 32)
    with pytest.raises(ValueError, match="deeper"):
        parse_json("[" * 34 + "]" * 34)


def test_a_file_that_is_too_large_is_not_read(path):
    assert read(path, {"size": 1}, Part, most_bytes=11) == Part(1.0)
    with pytest.raises(LinscoreError, match="more than 10 bytes"):
        read(path, {"size": 1}, Part, most_bytes=10)


def test_what_is_written_has_null_for_what_is_not_finite(path):
    data = {"a": [1.5, float("nan"), (float("inf"),)], "b": {"c": -float("inf"), "d": None, "e": "nan", "f": True}}
    path.write_text(json_text(data))
    assert json.loads(path.read_text()) == {
        "a": [1.5, None, [None]],
        "b": {"c": None, "d": None, "e": "nan", "f": True},
    }
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize("there", ["nothing", "folder", "pipe"])
def test_what_is_no_file_is_not_waited_for(path, there):
    if there == "folder":
        path.mkdir()
    if there == "pipe":
        os.mkfifo(path)
    with pytest.raises(LinscoreError, match=r"file\.json is no (regular )?file"):
        read_json(path, Whole, damaged=DAMAGED)
