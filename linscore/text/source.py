"""What the user names to read: a text, a dataset, or the text that ships with linscore, as batches of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from linscore.embedded.shipped import EMBEDDED_TEXT
from linscore.errors import LinscoreError
from linscore.models.load import Pretrained
from linscore.text.documents import Document, read_documents
from linscore.text.hub import read_dataset
from linscore.text.packing import batches, pack

DATASET_TOKENS = 1_000_000  # a streamed dataset may have no end
LONGEST = 2048  # tokens: longer contexts cost more and say little more about a block
BATCH_TOKENS = {"cpu": 4096, "cuda": 16384}
SAMPLE = 20_000  # characters whose tokens are counted to guess the rest


@dataclass(frozen=True)
class Text:
    """A path, or a name of `datasets`, and how many tokens of it at most; the built-in text where neither is given."""

    path: str | None = None
    dataset: str | None = None
    tokens: int | None = None

    def __str__(self) -> str:
        return self.dataset or self.path or "Python standard-library files that ship with linscore"

    def check(self) -> None:
        """Look at what can be looked at before a model is loaded.

        Raises:
            LinscoreError: where path and dataset are both given, or the path cannot be read.
        """
        if self.path is not None and self.dataset is not None:
            raise LinscoreError("--text and --dataset are both given: give one")
        if self.path == "":
            raise LinscoreError("--text is empty: give a file, a folder or -, or leave it out")
        if self.dataset is None and self.path != "-":
            self.documents()

    def documents(self) -> Iterator[Document]:
        """Its documents, from the first at each call.

        Raises:
            LinscoreError: where they cannot be read.
        """
        if self.dataset is not None:
            return read_dataset(self.dataset)
        return read_documents(EMBEDDED_TEXT if self.path is None else self.path)

    def batches(
        self, loaded: Pretrained, *, seq_len: int | None = None, batch_size: int | None = None, folds: int = 2
    ) -> Iterator[dict[str, Tensor]]:
        """Packed sequences of one fold each (see `linscore.text.tokens.batches`).

        Args:
            loaded: says the tokenizer, the context and the device.
            seq_len: tokens in a sequence; by default the model's context, but no more than 2,048.
            batch_size: sequences in a batch; by default 4,096 tokens, on a GPU 16,384.
            folds: cross-validation folds.

        Raises:
            LinscoreError: for any of these that cannot be used.
        """
        if batch_size is not None and batch_size < 1:
            raise LinscoreError(f"--batch-size is {batch_size}: give 1 or more")
        if seq_len is not None and 0 < loaded.context < seq_len:
            raise LinscoreError(
                f"--seq-len {seq_len} is longer than the context of {loaded.name}, {loaded.context} tokens: give less"
            )
        seq_len = seq_len if seq_len is not None else min(loaded.context or LONGEST, LONGEST)
        tokens = DATASET_TOKENS if self.tokens is None and self.dataset is not None else self.tokens
        sequences = pack(self.documents(), loaded.tokenizer, seq_len=seq_len, folds=folds, tokens=tokens)
        return batches(sequences, batch_size or max(1, BATCH_TOKENS[loaded.model.device.type] // seq_len))

    def expected_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """About how many tokens there are: of a local text its size, times the rate of its first document."""
        if self.dataset is not None:
            return DATASET_TOKENS if self.tokens is None else self.tokens
        if self.path == "-":
            return self.tokens
        where = Path(self.path or EMBEDDED_TEXT)
        files = [path for path in where.rglob("*") if path.is_file()] if where.is_dir() else [where]
        first = next(iter(read_documents(where)), "")
        piece = (first if isinstance(first, str) else next(iter(first), ""))[:SAMPLE]
        rate = len(tokenizer.encode(piece, add_special_tokens=False)) / max(1, len(piece.encode()))
        found = int(sum(path.stat().st_size for path in files) * rate)
        return found if self.tokens is None else min(found, self.tokens)
