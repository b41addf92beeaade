"""What the distillation job refuses, in one line, leaving all as it was."""

import pytest
from asked import asked
from distil_job import job
from tiny_models import tiny
from transformers import AutoTokenizer

from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.errors import LinscoreError
from linscore.jobs import distil as distil_job
from linscore.jobs.distil import run_distil

run_distil = asked(run_distil)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student": "original"}, "linscore.json"),
        ({"student": "cut"}, "`train=all`"),
        ({"train": "some"}, "`train` is 'some'"),
        ({"text": None}, "`text`"),
        ({"dataset": "some"}, "`text` and `dataset`"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"seq_len": 1}, "`seq_len` is 1"),
        ({"steps": 0}, "`steps` is 0"),
        ({"save_every": 0}, "`save_every` is 0"),
        ({"learning_rate": -1.0}, "`learning_rate` is -1"),
        ({"learning_rate": 0.0}, "`learning_rate` is 0"),
        ({"learning_rate": float("nan")}, "`learning_rate` is nan"),
        ({"hidden": 0, "kl": 0}, "no loss"),
        ({"kl": -1}, "weights of 0 or more"),
        ({"text": None}, "no text to train on"),
        ({"resume": True}, "no run to go on with"),
        ({"teacher": "embedded"}, "embedded has 10 blocks.* of 3"),
        ({"out": "cut"}, "exists"),
        ({"dtype": "float8"}, "float8"),
        ({"device": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_leaves_all_as_it_was(place, changes, words):
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    given = {"device": "cpu", "student": "fused", "out": "out", "text": str(place / "text.txt")} | changes
    given |= {"student": str(place / given["student"]), "out": str(place / given["out"])}
    with pytest.raises(LinscoreError, match=words) as caught:
        run_distil(**{"steps": 2} | given)
    assert "\n" not in str(caught.value)
    assert before == {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert not list(place.glob("*.training"))


@pytest.mark.parametrize("option", ["steps", "batch_size", "seq_len", "save_every", "learning_rate"])
def test_options_are_checked_before_a_model_is_loaded(place, monkeypatch, option):
    monkeypatch.setattr(distil_job, "load_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(LinscoreError, match=f"`{option}` is 0"):
        job(place, **{option: 0})


def test_another_width_is_refused(place):
    tiny("llama", vocab_size=2048, hidden_size=40).save_pretrained(place / "original")
    with pytest.raises(LinscoreError, match="width"):
        job(place, teacher=str(place / "original"))


def test_another_tokenizer_is_refused(place):
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(place / "original")
    with pytest.raises(LinscoreError, match="vocabularies"):
        job(place, teacher=str(place / "original"))
