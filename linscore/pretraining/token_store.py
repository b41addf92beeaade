"""A corpus as one run of token ids on disk, read by place: memory does not grow with it.

tokens.bin      token ids, one document behind the other
ends.npy        where each document ends, int64
"""

from __future__ import annotations

import contextlib
import itertools
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from linscore.embedded.shipped import EMBEDDED_TEXT
from linscore.errors import LinscoreError
from linscore.text.documents import Document
from linscore.text.tokens import overlap, recut, special_tokens

__all__ = ["TokenizedCorpus", "standard_library", "tokenize", "train_tokenizer"]

TOKENS, ENDS = "tokens.bin", "ends.npy"
BATCH_CHARS = 1 << 22  # given to the tokenizer at a time, which works on all cores
TRAINED_CHARS = 100_000_000  # of the corpus that a new tokenizer is trained on
EOS = "<|endoftext|>"


@dataclass(frozen=True)
class TokenizedCorpus:
    """Token ids `[n]` of any integer type, and where each document of them ends."""

    tokens: np.ndarray
    ends: np.ndarray

    @staticmethod
    def open(folder: Path) -> TokenizedCorpus:
        """What `tokenize` wrote to `folder`."""
        ends = np.load(folder / ENDS)
        size = (folder / TOKENS).stat().st_size // max(1, int(ends[-1]))
        return TokenizedCorpus(np.memmap(folder / TOKENS, dtype=f"u{size}", mode="r"), ends)

    def split(self, share: float) -> tuple[TokenizedCorpus, TokenizedCorpus]:
        """The first part, and the last `share` of the tokens; a document across the border is cut in two."""
        border = int(len(self.tokens) * (1 - share))
        before, after = self.ends[self.ends < border], self.ends[self.ends > border]
        return (
            TokenizedCorpus(self.tokens[:border], np.append(before, border)),
            TokenizedCorpus(self.tokens[border:], after - border),
        )


def standard_library() -> Iterator[str]:
    """Sources of Python's standard library without the modules that ship as held-out text, their tests, and codecs."""
    root = Path(sysconfig.get_path("stdlib"))
    heldout = [path.name.removesuffix(".py.txt") for path in EMBEDDED_TEXT.glob("*.py.txt")]
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        left_out = {"site-packages", "dist-packages", "encodings"} & set(parts)
        if left_out or any(name in part for name in heldout for part in parts):
            continue
        with contextlib.suppress(UnicodeDecodeError):
            yield path.read_text(encoding="utf-8")


def train_tokenizer(documents: Iterable[Document], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that every text has an encoding and bits per byte are exact.

    Raises:
        LinscoreError: for a vocabulary smaller than the bytes.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size <= len(alphabet):
        raise LinscoreError(f"vocab_size is {vocab_size}: a byte-level tokenizer needs more than {len(alphabet)}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_first_chars(documents, TRAINED_CHARS), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS)


def tokenize(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> TokenizedCorpus:
    """Write the ids of all documents to `folder`, each between the tokenizer's special tokens and with EOS at the end.

    Args:
        documents: as `read_documents` gives them; empty ones are skipped.
        tokenizer: of the model.
        folder: an empty one.
        tokens: stop after so many.
        progress: called with the number of tokens written.

    Raises:
        LinscoreError: for a text without a token.
    """
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    ends, written = [], 0
    with (folder / TOKENS).open("wb") as file:
        for ids, ends_here in _encoded(documents, tokenizer):
            ids = ids if tokens is None else ids[: tokens - written]
            file.write(np.asarray(ids, dtype).tobytes())
            written += len(ids)
            full = written == tokens
            if ends_here or full:
                ends.append(written)
            if progress is not None:
                progress(len(ids))
            if full:
                break
    if not written:
        raise LinscoreError("the text to train on is empty: give a file with text in it")
    np.save(folder / ENDS, np.asarray(ends, np.int64))
    return TokenizedCorpus.open(folder)


def _encoded(documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[list[int], bool]]:
    """Ids of consecutive pieces of text, and whether a document ends with the piece."""
    before, after = special_tokens(tokenizer)
    for pieces in _by_size(itertools.chain.from_iterable(map(_pieces, documents))):
        texts = [text for text, _, _ in pieces]
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        for ids, (_, begins, ends) in zip(encoded, pieces, strict=True):
            first = before[: len(before) - overlap(before, ids)] if begins else []
            yield first + ids + (after[overlap(ids, after) :] if ends else []), ends


def _pieces(document: Document) -> Iterator[tuple[str, bool, bool]]:
    """The pieces of a document, and whether it begins and ends with them; none of an empty one."""
    begins, held = True, ""
    for text in filter(None, recut(document)):
        if held:
            yield held, begins, False
            begins = False
        held = text
    if held:
        yield held, begins, True


def _by_size(pieces: Iterable[tuple[str, bool, bool]]) -> Iterator[list[tuple[str, bool, bool]]]:
    """Lists of pieces of about `BATCH_CHARS` characters."""
    batch, chars = [], 0
    for piece in pieces:
        batch.append(piece)
        chars += len(piece[0])
        if chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _first_chars(documents: Iterable[Document], limit: int) -> Iterator[str]:
    for document in documents:
        for text in recut(document):
            yield text
            limit -= len(text)
            if limit <= 0:
                return
