"""Texts that are begun, and what models write on (paper: table 3, as TinyStories has it)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from linscore.decoder.call import evaluating
from linscore.errors import LinscoreError
from linscore.text.documents import Document
from linscore.text.tokens import encode, special_tokens

CHARACTERS = 4  # of a token, about: how much of a text stands beside so many tokens of a model


class Story(NamedTuple):
    """The beginning of a text, and how the text itself goes on."""

    begin: str
    rest: str


def stories(documents: Iterable[Document], count: int, begin: int, new_tokens: int) -> list[Story]:
    """The first documents that are long enough, cut between two words.

    Args:
        documents: the texts.
        count: of the stories, at most.
        begin: characters of the beginnings, at most.
        new_tokens: what models will write, about which as much of the texts is kept.

    Raises:
        LinscoreError: no document has more than its beginning.
    """
    length = begin + CHARACTERS * new_tokens
    pieces = (_first(one, length) for one in documents)
    found = list(islice((_cut(piece, begin) for piece in pieces if len(piece) > begin), count))
    if not found:
        raise LinscoreError(f"no text has more than {begin} characters: give longer ones, or a smaller `begin`")
    return found


def _first(document: Document, length: int) -> str:
    """The first characters of a document."""
    if isinstance(document, str):
        return document[:length]
    text = ""
    for part in document:
        text += part
        if len(text) >= length:
            break
    return text[:length]


def _cut(text: str, begin: int) -> Story:
    """Cut before the last white space of the beginning, where it has any behind its first word."""
    place = max((at for at in range(1, begin + 1) if text[at].isspace() and text[:at].strip()), default=begin)
    return Story(text[:place], text[place:])


def go_on(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    begun: Iterable[str],
    *,
    new_tokens: int,
    temperature: float,
    seed: int,
    context: int = 0,
    done: Callable[[], None] = lambda: None,
) -> list[str]:
    """What a model writes behind each beginning: sampled from all of its vocabulary, one text after the other.

    Args:
        model: a causal language model; runs without dropout, and keeps the mode it is in.
        tokenizer: the model's own.
        begun: the beginnings.
        new_tokens: tokens at most; fewer where the model ends the text.
        temperature: of the sampling; 0 takes the likeliest token each time.
        seed: of the first text, one more for each that follows: what is written does not depend on the others.
        context: tokens that the model takes; 0: not known.
        done: called after each text.

    Raises:
        LinscoreError: a beginning and what is to be written are longer than the context.
    """
    before, _ = special_tokens(tokenizer)
    given, written = [[*before, *encode(tokenizer, text, special=False)] for text in begun], []
    longest = max(map(len, given), default=0)
    if context and longest + new_tokens > context:
        raise LinscoreError(
            f"{longest} tokens of a beginning and {new_tokens} more are beyond the model's context of {context}: give "
            "fewer `new_tokens`, or a smaller `begin`"
        )
    with torch.random.fork_rng(), torch.no_grad(), evaluating(model):
        for number, ids in enumerate(given):
            torch.manual_seed(seed + number)
            both = _text(tokenizer, _generated(model, tokenizer, ids, new_tokens, temperature))
            written.append(both[len(_text(tokenizer, ids)) :])  # decoded alone it may lose the space before it
            done()
    return written


def _generated(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: list[int], new_tokens: int, temperature: float
) -> list[int]:
    """Token ids, and those that the model puts behind them."""
    given = torch.tensor([ids], device=model.device)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    ends = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    full = model.generate(  # type: ignore[operator]
        input_ids=given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=new_tokens,
        pad_token_id=ends,
        **(sampling if temperature > 0 else {"do_sample": False}),
    )
    found: list[int] = full[0].tolist()
    return found


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
