"""What models write, and how it is judged: against transformers' logits in a loop, and answers made up."""

import json
import math

import pytest
import torch
from tiny_models import tiny
from transformers import AutoTokenizer

from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.errors import LinscoreError
from linscore.evaluation.judged import judged
from linscore.evaluation.judges import grading, likelihood
from linscore.evaluation.stories import Story, go_on, stories

pytestmark = pytest.mark.usefixtures("one_thread")
FIRST, SECOND = "def double(x):\n    ", "import "
ALL = {"grammar": 7, "creativity": 2.5, "consistency": 10, "plot": 0}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(EMBEDDED_MODEL)


@pytest.fixture(scope="module")
def model():
    return tiny("llama", vocab_size=2048, max_position_embeddings=64).train()


def written(model, tokenizer, texts, **options):
    return go_on(model, tokenizer, texts, **{"new_tokens": 6, "temperature": 1.0, "seed": 3, "context": 64, **options})


def test_beginnings_are_cut_between_words_and_short_texts_left_out():
    found = stories(["too short", iter(["one two ", "three four", " five"]), "six seven eight nine"], 2, 10, 1)
    assert found == [Story("one two", " three "), Story("six seven", " eigh")]
    assert stories(["abcdefgh ij kl"], 1, 4, 1) == [Story("abcd", "efgh")]
    with pytest.raises(LinscoreError, match="no text has more than 10 characters"):
        stories(["too short"], 2, 10, 1)


@torch.no_grad()
def test_without_temperature_the_likeliest_token_is_written(model, tokenizer):
    ids = tokenizer.encode(FIRST)
    for _ in range(6):
        ids.append(int(model.eval()(torch.tensor([ids])).logits[0, -1].argmax()))
    model.train()
    assert written(model, tokenizer, [FIRST], temperature=0) == [tokenizer.decode(ids)[len(FIRST) :]]
    assert model.training


def test_what_is_sampled_depends_on_the_seed_and_on_no_other_text(model, tokenizer):
    before = torch.random.get_rng_state()
    both = written(model, tokenizer, [FIRST, SECOND])
    assert written(model, tokenizer, [SECOND], seed=4) == both[1:]
    assert written(model, tokenizer, [FIRST, SECOND], seed=5) != both
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(LinscoreError, match="beyond the model's context of 64: give fewer `new_tokens`"):
        written(model, tokenizer, [FIRST], new_tokens=64)


@torch.no_grad()
@pytest.mark.parametrize("context", [0, 64, 8])
def test_a_reference_decoder_says_what_a_token_costs_it(model, tokenizer, context):
    behind = "return 2 * x"
    first, ids = tokenizer.encode(FIRST), tokenizer.encode(behind)
    whole = (first + ids)[-(context + 1) :] if context else first + ids
    log_p = model.eval()(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    places = range(len(whole) - len(ids), len(whole))
    expected = -sum(float(log_p[at - 1, whole[at]]) for at in places) / len(ids)
    judge = likelihood(model, tokenizer, context)
    assert judge(FIRST, behind) == {"loss": pytest.approx(expected, rel=1e-5)}
    assert judge(FIRST, "") is None


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(ALL),
        f"Sure! ```json\n{json.dumps(ALL, indent=1)}\n```",
        f'{{"grammar": 1}} no: {json.dumps({name.upper(): value for name, value in ALL.items()})} {{broken}}',
    ],
)
def test_grades_are_found_among_words(answer):
    assert grading(lambda _: answer)(FIRST, "return") == ALL


@pytest.mark.parametrize("wrong", [{"plot": 11}, {"plot": True}, {"plot": "7"}, {"plot": None}, {"plot": math.nan}])
def test_answers_without_grades_are_asked_for_again_three_times_in_all(wrong):
    asked = []

    def ask(prompt):
        asked.append(prompt)
        return json.dumps(ALL | wrong)

    assert grading(ask)(FIRST, "return") is None
    assert len(asked) == 3
    assert FIRST in asked[0]
    assert "return" in asked[0]
    assert grading(ask)(FIRST, " \n") is None  # nothing was written
    assert len(asked) == 3


def test_grades_are_averaged_with_their_spread_over_the_texts_that_have_any():
    answers = iter([{"a": 1.0, "b": 3.0}, None, {"a": 2.0, "b": 10.0}, {"a": 6.0, "b": 8.0}])
    begun = [Story(str(number), "") for number in range(4)]
    found = judged("m", begun, ["w"] * 4, lambda *_: next(answers))
    assert (found.judged, found.perplexity) == (3, None)
    assert found.grades["a"].mean == pytest.approx(3)
    assert found.grades["a"].spread == pytest.approx(math.sqrt(7))
    assert found.grades["a"].stderr == pytest.approx(math.sqrt(7 / 3))
    assert found.grades["mean"].mean == pytest.approx((2 + 6 + 7) / 3)
    assert found.texts[1].grades is None
    alone = judged("m", begun[:1], ["w"], lambda *_: {"loss": 2.0})
    assert (alone.grades["loss"].stderr, alone.perplexity) == (None, pytest.approx(math.exp(2)))
    assert "mean" not in alone.grades
