"""The distillation job end to end on a tiny decoder: what it saves, and what was measured."""

import json
import sys
from io import StringIO

import numpy as np
import pytest
import torch
from distil_job import FILES, PROJECTION, job, names, save, weights
from scipy.special import log_softmax
from tiny_models import tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from linscore.errors import LinscoreError
from linscore.surgery.drop import drop
from linscore.surgery.record import Record, Replacement

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_what_stands_for_the_block_is_trained_and_the_rest_stays(place):
    before = names(place)
    done = job(place, kl=0.5)
    assert names(place) == before | {"out"}
    assert {path.name for path in (place / "out").iterdir()} >= FILES
    old, new = weights(place / "fused"), weights(place / "out")
    assert [name for name in old if not torch.equal(old[name], new[name])] == [PROJECTION]
    curve = [json.loads(line) for line in (place / "out" / "losses.jsonl").read_text().splitlines()]
    assert curve[-1]["step"] == 6
    record = Record.load(place / "out")
    assert record == done.record
    assert record.replacements == Record.load(place / "fused").replacements
    distilled = record.distilled
    assert distilled["tokens"] == 6 * 2 * 16
    assert distilled["trained_parameters"] == old[PROJECTION].numel()
    assert (distilled["hidden"], distilled["kl"], distilled["lm"]) == (1, 0.5, 0)
    assert curve[0]["loss"] == pytest.approx(curve[0]["hidden"] + 0.5 * curve[0]["kl"])
    assert not distilled.keys() & {"first", "last"}
    assert distilled["text"] == str(place / "text.txt")
    assert (place / "out" / "losses.png").read_bytes().startswith(b"\x89PNG")


def hidden_and_kl(folder, teacher, ids):
    """Both losses on token ids `[n, B, T]`, batch for batch, in float64 NumPy from what transformers itself gives."""
    student, teacher = (AutoModelForCausalLM.from_pretrained(one) for one in (folder, teacher))
    rows = []
    for batch in ids:
        with torch.no_grad():
            ours, theirs = (model(input_ids=batch, output_hidden_states=True) for model in (student, teacher))
        h, target = (one.hidden_states[at].double().numpy().reshape(-1, 32) for one, at in ((ours, 1), (theirs, 2)))
        log_q, log_p = (log_softmax(one.logits.double().numpy(), axis=-1) for one in (ours, theirs))
        missed = np.sum((h - target) ** 2) / np.sum((target - target.mean(0)) ** 2)
        rows.append((missed, (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()))
    return np.mean(rows, axis=0)


@pytest.mark.slow
def test_before_and_after_are_of_the_same_batches(place):
    """The first four of the text, packed as the tokenizer gives them."""
    distilled = job(place, steps=9, learning_rate=0.01, kl=0.5).record.distilled
    tokenizer = AutoTokenizer.from_pretrained(place / "original")
    ids = tokenizer((place / "text.txt").read_text(), add_special_tokens=False)["input_ids"]
    ids = torch.tensor(ids[: 4 * 2 * 16]).reshape(4, 2, 16)
    for when, folder in (("before", "fused"), ("after", "out")):
        hidden, kl = hidden_and_kl(place / folder, place / "original", ids)
        assert distilled[when]["hidden"] == pytest.approx(hidden, rel=1e-4)
        assert distilled[when]["kl"] == pytest.approx(kl, rel=1e-4)
        assert distilled[when]["loss"] == pytest.approx(hidden + 0.5 * kl, rel=1e-4)
        assert distilled[when]["lm"] is None


@pytest.mark.slow
def test_training_brings_the_student_nearer_to_its_teacher(place):
    distilled = job(place, steps=60, learning_rate=0.01).record.distilled
    assert distilled["after"]["hidden"] < 0.9 * distilled["before"]["hidden"]


@pytest.mark.slow
def test_everything_of_a_model_without_blocks_is_trained_on_request(place):
    job(place, student="cut", train="all", lm=1, hidden=0, kl=1)
    old, new = weights(place / "cut"), weights(place / "out")
    assert not [name for name in old if torch.equal(old[name], new[name])]


@pytest.mark.slow
def test_the_dtype_of_the_student_is_that_of_the_result(place):
    original = tiny("llama", vocab_size=2048)
    replacement = Replacement("1", "fused", 0, [PROJECTION])
    for dtype in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        save(place / name, drop(original, [1]).to(dtype), place / "original", replacement)
        job(place, student=name, out=f"{name}-out", steps=1)
        assert {value.dtype for value in weights(place / f"{name}-out").values()} == {dtype}


@pytest.mark.slow
def test_standard_input_is_read_once_and_used_again(place, monkeypatch):
    job(place, out="file", seq_len=64, steps=8)
    monkeypatch.setattr(sys, "stdin", StringIO((place / "text.txt").read_text()))
    job(place, text="-", seq_len=64, steps=8)
    curves = [(place / name / "losses.jsonl").read_text() for name in ("file", "out")]
    assert curves[0] == curves[1]
    hidden = [json.loads(line)["hidden"] for line in curves[0].splitlines()]
    assert len(set(hidden)) == len(hidden) == 8


@pytest.mark.slow
def test_the_embeddings_are_no_block_to_match(place):
    save(
        place / "first",
        drop(tiny("llama", vocab_size=2048), [0]),
        place / "original",
        Replacement("0", "dropped", None),
    )
    with pytest.raises(LinscoreError, match="no loss"):
        job(place, student="first", train="all", kl=0)
    done = job(place, student="first", train="all", kl=1)
    assert done.record.distilled["before"]["hidden"] is None
