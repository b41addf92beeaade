"""Who judges what models write: a model that gives grades, or a decoder for which it is likely or not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from linscore.decoder.call import evaluating
from linscore.evaluation.perplexity import batch_loss
from linscore.evaluation.windows import Window, batch_of
from linscore.text.tokens import encode, special_tokens

# The beginning of a text and what stands behind it, to grades by their names; None where it cannot be judged.
Judge = Callable[[str, str], Mapping[str, float] | None]

GRADES = ("grammar", "creativity", "consistency", "plot")  # the paper's columns
HIGHEST = 10
ASKED = 3  # times for the same text, until the answer has grades
_OBJECT = re.compile(r"\{[^{}]*\}")
_PROMPT = """A student was given the beginning of a text and wrote on from it; the text may end in the middle of a \
sentence, which does not count against the student. Grade only what the student wrote, from 0 to 10: grammar; \
creativity; consistency with the beginning; plot, whether it makes sense.

Beginning:
{begin}

What the student wrote:
{written}

Answer with one JSON object and nothing else, of this form: \
{{"grammar": 5, "creativity": 5, "consistency": 5, "plot": 5}}"""


def grading(ask: Callable[[str], str]) -> Judge:
    """A judge that is asked in words, and answers with four grades from 0 to 10 (paper: table 3)."""

    def judge(begin: str, written: str) -> Mapping[str, float] | None:
        if not written.strip():
            return None
        prompt = _PROMPT.format(begin=begin, written=written)
        answers = (_grades(ask(prompt)) for _ in range(ASKED))
        return next((grades for grades in answers if grades is not None), None)

    return judge


def _grades(answer: str) -> Mapping[str, float] | None:
    """The last object of an answer, where it has all grades; models put words and fences around it."""
    for text in reversed(_OBJECT.findall(answer)):
        try:
            found = {str(key).lower(): value for key, value in json.loads(text).items()}
        except ValueError:
            continue
        grades = [found.get(name) for name in GRADES]
        if all(isinstance(one, int | float) and not isinstance(one, bool) and 0 <= one <= HIGHEST for one in grades):
            return {name: float(found[name]) for name in GRADES}
    return None


def likelihood(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, context: int = 0) -> Judge:
    """A judge that says how many nats a token of what is written costs a decoder, behind the beginning.

    Args:
        model: a causal language model.
        tokenizer: the model's own.
        context: tokens that the model takes, 0: not known; of longer texts the beginning is cut at its front.
    """
    before, _ = special_tokens(tokenizer)

    def judge(begin: str, written: str) -> Mapping[str, float] | None:
        first, behind = (encode(tokenizer, text, special=False) for text in (begin, written))
        room = context + 1 if context else len(before) + len(first) + len(behind)
        behind = behind[: room - len(before) - 1]
        first = first[max(0, len(first) - (room - len(before) - len(behind))) :]
        if not behind or not before + first:
            return None
        with torch.no_grad(), evaluating(model):
            loss, count = batch_loss(model, batch_of([Window(before + first + behind, len(behind))]))
        return {"loss": loss / count}

    return judge
