"""What the user names to read: a text, labelled rows, a dataset, or the text that ships with linscore."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from linscore.embedded.shipped import EMBEDDED_TEXT
from linscore.errors import LinscoreError, at_least
from linscore.machine.extras import need
from linscore.options.text import LabelledOptions, TextOptions
from linscore.text.ahead import Ahead
from linscore.text.compressed import is_compressed
from linscore.text.documents import Document, Say, read_documents, warn
from linscore.text.hub import read_dataset
from linscore.text.packing import batches, pack
from linscore.text.records import Row, read_dataset_rows, read_rows

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

DATASET_TOKENS = 1_000_000  # a streamed dataset may have no end
LONGEST = 2048  # tokens: longer contexts cost more and say little more about a block
BATCH_TOKENS = {"cpu": 4096, "cuda": 16384}
SAMPLE = 20_000  # characters whose tokens are counted to guess the rest


@dataclass(frozen=True)
class Source:
    """A path, or the name of a dataset; the built-in text where neither is given.

    Attributes:
        path: file or folder, or "-" for standard input.
        dataset: a name of `datasets`, see `read_dataset`.
        argument: what the path is called in errors.
        skip_shards: whether a shard of the dataset that stays broken is left out as far as it is, and said to be.
    """

    path: str | None = None
    dataset: str | None = None
    argument: str = "text"
    skip_shards: bool = False

    def __str__(self) -> str:
        return self.dataset or self.path or "Python standard-library files that ship with linscore"

    def check(self) -> None:
        """Look at what can be looked at before a model is loaded.

        Raises:
            LinscoreError: where path and dataset are both given, the path cannot be read, or `datasets` is missing.
        """
        if self.path is not None and self.dataset is not None:
            raise LinscoreError(f"`{self.argument}` and `dataset` are both given: give one")
        if self.skip_shards and self.dataset is None:
            raise LinscoreError("`skip_shards` belongs to `dataset`: give one, or leave it out")
        self._check_path()
        if self.dataset is not None:
            need("datasets", "`dataset`", "datasets")
        elif self.path != "-":
            self.documents(say=_nothing)

    def check_read_again(self, what_for: str = "") -> None:
        """Raise LinscoreError for standard input, which can be read only once."""
        if self.path == "-":
            raise LinscoreError(f"`{self.argument}=-` can be read only once: give a file{what_for}")

    def documents(self, say: Say = warn) -> Iterator[Document]:
        """Its documents, from the first at each call; `say` takes doubts about them (see `read_documents`).

        Raises:
            LinscoreError: where they cannot be read.
        """
        if self.dataset is not None:
            return read_dataset(self.dataset, say if self.skip_shards else None)
        return read_documents(EMBEDDED_TEXT if self.path is None else self.path, say)

    def rows(self) -> list[Row]:
        """Its rows with named columns; there are none that ship with linscore.

        Raises:
            LinscoreError: where both or neither are given, or there are none to be read.
        """
        if (self.path is None) == (self.dataset is None):
            raise LinscoreError(f"give `{self.argument}` or `dataset`, one of them")
        self._check_path()
        return read_dataset_rows(self.dataset) if self.dataset is not None else read_rows(str(self.path))

    def _check_path(self) -> None:
        if self.path == "":
            raise LinscoreError(f"`{self.argument}` is empty: give the name of a file, or leave it out")


def _nothing(_line: str) -> None:
    """What is said of a text that is only looked at."""


def labelled_source(options: LabelledOptions) -> Source:
    """Where labelled texts come from."""
    return Source(options.data, options.dataset, "data")


@dataclass(frozen=True)
class Text:
    """A text for models: where it comes from, how much of it, and how it is cut."""

    options: TextOptions = field(default_factory=TextOptions)
    argument: str = "text"  # what its path is called in errors
    skip_shards: bool = False  # see `Source`

    @property
    def source(self) -> Source:
        """Where it comes from."""
        return Source(self.options.text, self.options.dataset, self.argument, self.skip_shards)

    @property
    def tokens(self) -> int | None:
        """How many tokens at most; None: all."""
        given = self.options.tokens
        return DATASET_TOKENS if given is None and self.options.dataset is not None else given

    def __str__(self) -> str:
        return str(self.source)

    def documents(self, device: torch.device, say: Say = warn) -> tuple[Iterator[Document], Ahead]:
        """Its documents, and how batches of them are made for a model on `device`; `say` takes doubts in their place.

        Standard input is not read ahead: a thread that waits for it holds it, and Python cannot end.
        """
        ahead = Ahead(None if self.options.text == "-" else device)
        return self.source.documents(ahead.in_place(say)), ahead

    def batches(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context: int,
        device: torch.device,
        *,
        folds: int = 2,
        say: Say = warn,
    ) -> Iterator[dict[str, Tensor]]:
        """Packed sequences of one fold each (see `linscore.text.packing.batches`).

        Args:
            tokenizer: of the model.
            context: the longest sequence that the model was made for; 0 where it does not say.
            device: where the model runs: on a GPU more tokens make a batch, and batches are made ahead (see `Ahead`).
            folds: cross-validation folds.
            say: takes doubts about the text (see `read_documents`).

        Raises:
            LinscoreError: for options that cannot be used.
        """
        at_least("batch_size", self.options.batch_size, 1)
        seq_len = within_context("seq_len", self.options.seq_len, context)
        documents, ahead = self.documents(device, say)
        sequences = pack(documents, tokenizer, seq_len=seq_len, folds=folds, tokens=self.tokens)
        return ahead.read(batches(sequences, self.options.batch_size or batch_of(seq_len, device)))

    def expected_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """About how many tokens there are: of a local text its size, times the rate of its first document."""
        if self.options.dataset is not None or self.options.text == "-":
            return self.tokens
        where = Path(self.options.text or EMBEDDED_TEXT)
        if is_compressed(where):
            return self.tokens
        files = [path for path in where.rglob("*") if path.is_file()] if where.is_dir() else [where]
        first = next(iter(read_documents(where, _nothing)), "")
        piece = (first if isinstance(first, str) else next(iter(first), ""))[:SAMPLE]
        rate = len(tokenizer.encode(piece, add_special_tokens=False)) / max(1, len(piece.encode()))
        found = int(sum(path.stat().st_size for path in files) * rate)
        return found if self.tokens is None else min(found, self.tokens)


def within_context(
    what: str, length: int | None, context: int, longest: int = LONGEST, *, of: str = "the model"
) -> int:
    """The length of a sequence, by default the context but no more than `longest`.

    Args:
        what: the argument, for the error.
        length: what was asked for.
        context: the longest sequence that the model was made for; 0 where it does not say.
        longest: by default.
        of: whose context it is, for the error.

    Raises:
        LinscoreError: for less than 1, or more than the context.
    """
    at_least(what, length, 1)
    if length is not None and 0 < context < length:
        raise LinscoreError(f"`{what}={length}` is longer than the context of {of}, {context} tokens: give less")
    return length if length is not None else min(context or longest, longest)


def batch_of(length: int, device: torch.device) -> int:
    """How many sequences of a length make a batch, by default."""
    return max(1, BATCH_TOKENS[device.type] // length)
