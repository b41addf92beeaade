"""`linscore.json`: what is written is read again, and what is not a record is refused in one line."""

import json

import pytest

from linscore.errors import LinscoreError
from linscore.surgery.record import Record, Replacement
from linscore.surgery.same_cut import SameCut

RECORD = Record(
    operation="fuse",
    model="original",
    replacements=[
        Replacement("1", "dropped", None),
        Replacement("3-5", "linear", 2, ["a.weight", "a.bias"], {"kind": "full"}, "no room"),
    ],
    depth_before=8,
    depth=5,
    parameters_before=80,
    parameters=50,
    flops_per_token_before=160,
    flops_per_token=100,
    choice={"by": "linearity"},
    distilled={"steps": 7},
    same_cut=SameCut({"merge_method": "passthrough"}, None, {"num_hidden_layers": 5}),
    versions={"torch": "2"},
)


def write(folder, content):
    (folder / "linscore.json").write_text(content if isinstance(content, str) else json.dumps(content))


def test_what_is_written_is_read_again(tmp_path):
    write(tmp_path, RECORD.to_json())
    assert Record.load(tmp_path) == RECORD
    assert Record.load(tmp_path).replacements[1].stands_for == 5


def test_fields_with_defaults_may_be_left_out(tmp_path):
    content = json.loads(RECORD.to_json())
    for name in ("choice", "moments", "distilled", "same_cut", "versions"):
        del content[name]
    content["replacements"] = [{"span": "2", "form": "fused", "block": 1}]
    write(tmp_path, content)
    record = Record.load(tmp_path)
    assert record.replacements == [Replacement("2", "fused", 1)]
    assert (record.choice, record.moments, record.distilled, record.versions) == (None, None, None, {})


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", "{}", '{"replacements": []}'])
def test_another_file_is_damaged(tmp_path, content):
    write(tmp_path, content)
    with pytest.raises(LinscoreError, match=r"linscore\.json is damaged"):
        Record.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("operation", "cut"),
        ("operation", ["drop"]),
        ("model", None),
        ("replacements", {}),
        ("replacements", "1"),
        ("replacements", [1]),
        ("replacements", None),
        ("depth_before", "8"),
        ("depth", 5.0),
        ("depth", True),
        ("parameters_before", None),
        ("parameters", [50]),
        ("flops_per_token_before", {}),
        ("flops_per_token", "100"),
        ("choice", []),
        ("moments", "m"),
        ("distilled", 7),
        ("same_cut", "llama-quantize"),
        ("versions", None),
        ("unknown", 1),
    ],
)
def test_a_field_of_another_type_is_damage(tmp_path, name, value):
    write(tmp_path, json.loads(RECORD.to_json()) | {name: value})
    with pytest.raises(LinscoreError, match=r"linscore\.json is damaged: cut the model again") as caught:
        Record.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("span", 3),
        ("span", "5-3"),
        ("span", "a"),
        ("form", "cut"),
        ("form", {}),
        ("block", "2"),
        ("block", False),
        ("parameters", "a.weight"),
        ("parameters", [1]),
        ("parameters", None),
        ("fit", []),
        ("reason", 1),
        ("unknown", 1),
    ],
)
def test_a_replacement_of_another_type_is_damage(tmp_path, name, value):
    content = json.loads(RECORD.to_json())
    content["replacements"][1] |= {name: value}
    write(tmp_path, content)
    with pytest.raises(LinscoreError, match=r"linscore\.json is damaged: cut the model again"):
        Record.load(tmp_path)


def test_a_newer_record_and_one_that_is_nested_without_end_say_so(tmp_path):
    write(tmp_path, json.loads(RECORD.to_json()) | {"later": 1})
    with pytest.raises(LinscoreError, match="later is unknown to this linscore: a newer one may have written it"):
        Record.load(tmp_path)
    write(tmp_path, json.loads(RECORD.to_json()) | {"choice": {"deep": json.loads("[" * 100 + "]" * 100)}})
    with pytest.raises(LinscoreError, match=r"linscore\.json is damaged: cut the model again \(it is nested"):
        Record.load(tmp_path)


def test_no_record_is_no_damage(tmp_path):
    with pytest.raises(LinscoreError, match=r"no linscore\.json"):
        Record.load(tmp_path)
