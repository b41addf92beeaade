"""What `linscore train` reads: a tokenizer, a tokenized corpus and held-out sequences, kept on disk while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from linscore.embedded.shipped import EMBEDDED_TEXT
from linscore.errors import LinscoreError
from linscore.files.whole import new_folder
from linscore.models.load import load_tokenizer
from linscore.models.pretrained import UntrustedError
from linscore.pretraining.recipe import Recipe
from linscore.pretraining.sequences import consecutive
from linscore.pretraining.token_store import TokenizedCorpus, standard_library, tokenize, train_tokenizer
from linscore.progress import TokenProgress
from linscore.text.documents import Document, read_documents
from linscore.text.source import Source

__all__ = ["Prepared", "prepare"]

TOKENIZER, TRAINING, HELDOUT = "tokenizer", "training", "heldout"
HELDOUT_SHARE = 0.01  # of a corpus that has no held-out text of its own


class Prepared(NamedTuple):
    """What a training reads."""

    text: str  # what it is called
    tokenizer: PreTrainedTokenizerBase
    corpus: TokenizedCorpus
    heldout: Tensor  # [B, seq_len] int64


def prepare(recipe: Recipe, folder: Path, first: bool) -> Prepared:
    """Tokenize what the recipe names into `folder`, unless that was done before; other processes only read it.

    Raises:
        LinscoreError: for text or a tokenizer that cannot be used.
    """
    if first and not folder.exists():
        with new_folder(folder) as new:
            _write(recipe, new)
    if not folder.exists():
        raise LinscoreError("the first process could not read the text: see its own message")
    tokenizer = load_tokenizer(str(folder / TOKENIZER))
    corpus = TokenizedCorpus.open(folder / TRAINING)
    if _is_default(recipe):
        heldout = TokenizedCorpus.open(folder / HELDOUT)
    else:
        whole = len(corpus.tokens)
        corpus, heldout = corpus.split(HELDOUT_SHARE)
        if len(heldout.tokens) < recipe.seq_len:
            raise LinscoreError(
                f"the text has {whole:,} tokens; the hundredth of them that is held out does not fill a sequence of "
                f"{recipe.seq_len}: give more text, or a recipe with a smaller seq_len"
            )
    rows = consecutive(heldout, recipe.seq_len, recipe.heldout_tokens)
    name = "Python's standard library" if _is_default(recipe) else str(recipe.dataset or recipe.text)
    return Prepared(name, tokenizer, corpus, rows)


def _write(recipe: Recipe, folder: Path) -> None:
    tokenizer = _tokenizer(recipe)
    tokenizer.save_pretrained(folder / TOKENIZER)
    parts = {TRAINING: (_documents(recipe), _most_tokens(recipe))}
    if _is_default(recipe):
        parts[HELDOUT] = (read_documents(EMBEDDED_TEXT), recipe.heldout_tokens)
    for name, (documents, tokens) in parts.items():
        (folder / name).mkdir()
        with TokenProgress(tokens, f"reading {name} text") as progress:
            tokenize(documents, tokenizer, folder / name, tokens=tokens, progress=progress.advance)


def _tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    if recipe.tokenizer != "train":
        try:
            return load_tokenizer(recipe.tokenizer)
        except UntrustedError as error:
            raise LinscoreError(f"tokenizer {recipe.tokenizer} needs code of its own: give one without") from error
    size = recipe.model.get("vocab_size")
    if not isinstance(size, int):
        raise LinscoreError("tokenizer is train, but model has no vocab_size: give it")
    return train_tokenizer(_documents(recipe), size)


def _documents(recipe: Recipe) -> Iterator[Document]:
    return standard_library() if _is_default(recipe) else Source(recipe.text, recipe.dataset).documents()


def _most_tokens(recipe: Recipe) -> int | None:
    if recipe.tokens is not None or recipe.dataset is None:
        return recipe.tokens
    return int(recipe.steps * recipe.batch_size * recipe.seq_len / (1 - HELDOUT_SHARE)) + recipe.seq_len


def _is_default(recipe: Recipe) -> bool:
    return recipe.text is None and recipe.dataset is None
