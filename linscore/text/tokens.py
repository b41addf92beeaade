"""Documents to token sequences, streamed: memory does not grow with the corpus.

documents -> tokens -> passages -> folds -> sequences -> batches

Which fold a token belongs to follows from its place in the text alone, never from the batch, so that any batch size
gives the same folds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from linscore.errors import LinscoreError
from linscore.text.documents import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["pad_right", "text_ids"]

PIECE_CHARS = 1 << 18  # given to the tokenizer at a time: at most 1 MiB of UTF-8

# White space is pre-tokenized together with its neighbours, so a cut is made where the byte-level BPE families cut
# themselves: behind a line end (alone, between words), else in front of a space (alone, between words).
_LAST_LINE_END = re.compile(r".*\S\n(?=\S)", re.DOTALL)

_LAST_WORD_END = re.compile(r".*\S(?= \S)", re.DOTALL)


# What byte-level BPE writes for the bytes from 0x80 on: themselves where they are printable, else from U+0100 on.
_HIGH_BYTES = [chr(at) for at in (*range(0xA1, 0xAD), *range(0xAE, 0x100), *range(0x100 + 34, 0x100 + 68))]


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    """Ids of a text; `verbose=False` because a text longer than the model's context is no fault here."""
    return tokenizer(text, add_special_tokens=special, return_attention_mask=False, verbose=False)["input_ids"]


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text, read off a probe; with EOS at the end in any case."""
    plain = encode(tokenizer, "a", special=False)
    framed = encode(tokenizer, "a", special=True)
    found = [at for at in range(len(framed)) if plain and framed[at : at + len(plain)] == plain]
    at = found[0] if found else len(framed)
    before, after = framed[:at], framed[at + len(plain) :]
    if tokenizer.eos_token_id not in (None, *after):
        after.append(tokenizer.eos_token_id)
    return before, after


class OddTokens:
    """Counts tokens of batches that pass by which stand for no text that the tokenizer was made for.

    That is unknown ones and single bytes of characters that it lacks. Vocabularies of little more than bytes have none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        vocabulary = tokenizer.get_vocab()
        odd = {at for token, at in vocabulary.items() if re.fullmatch("<0x[0-9A-F]{2}>", token)}
        if all(byte in vocabulary for byte in _HIGH_BYTES):  # byte-level BPE
            odd |= {vocabulary[byte] for byte in _HIGH_BYTES}
        odd |= {tokenizer.unk_token_id} - {None, tokenizer.eos_token_id, tokenizer.bos_token_id}
        self._odd = torch.tensor(sorted(odd) if len(vocabulary) > 512 else [], dtype=torch.long)
        self._all = self._found = 0

    def watch(self, batches: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """The same batches."""
        for batch in batches:
            self._all += batch["input_ids"].numel()
            self._found += int(torch.isin(batch["input_ids"], self._odd).sum())
            yield batch

    @property
    def share(self) -> float:
        """Of all tokens so far."""
        return self._found / max(1, self._all)


def overlap(before: SequenceOf[int], after: SequenceOf[int]) -> int:
    """How many tokens at the end of `before` are those that `after` begins with, at most."""
    longest = min(len(before), len(after))
    return next(size for size in range(longest, -1, -1) if list(before[len(before) - size :]) == list(after[:size]))


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[list[int]]:
    """Ids of texts by themselves, each behind what the tokenizer puts in front of a text and with nothing after it.

    Raises:
        LinscoreError: a text is empty.
    """
    before, _ = special_tokens(tokenizer)
    ids = [encode(tokenizer, text, special=False) for text in texts]
    empty = next((number for number, tokens in enumerate(ids, 1) if not tokens), None)
    if empty is not None:
        raise LinscoreError(f"the text of row {empty} is empty: leave the row out")
    return [before[: len(before) - overlap(before, tokens)] + tokens for tokens in ids]


def pad_right(rows: SequenceOf[list[int]], padding: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids `[B, T]` padded on the right, and their mask."""
    longest = max(map(len, rows))
    ids = torch.tensor([tokens + [padding] * (longest - len(tokens)) for tokens in rows])
    return ids, (torch.arange(longest) < torch.tensor([len(tokens) for tokens in rows])[:, None]).long()


def recut(document: Document) -> Iterator[str]:
    """The same text in pieces that depend on the text alone, not on how the document came in pieces."""
    parts: list[str] = []
    held = 0
    for part in _slices(document) if isinstance(document, str) else document:
        parts.append(part)
        held += len(part)
        if held > PIECE_CHARS:
            *whole, rest = _cut("".join(parts))
            yield from whole
            parts, held = [rest], len(rest)
    if held:
        yield "".join(parts)


def _slices(text: str) -> Iterator[str]:
    return (text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS))


def _cut(text: str) -> Iterator[str]:
    """Pieces of at most `PIECE_CHARS` characters; the last one is what could not be cut off yet."""
    start = 0
    while len(text) - start > PIECE_CHARS:
        window = text[start : start + PIECE_CHARS + 1]  # one more: a cut looks at the character behind it
        found = _LAST_LINE_END.match(window) or _LAST_WORD_END.match(window)
        end = start + (found.end() if found else PIECE_CHARS)
        yield text[start:end]
        start = end
    yield text[start:]
