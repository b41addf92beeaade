"""What a head is trained on: texts with a class, or pairs of texts of which one is preferred, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from linscore.errors import LinscoreError
from linscore.text.labelled import LabelledTexts, Preferences
from linscore.text.tokens import special_tokens, text_ids

__all__ = ["Examples", "class_examples", "preference_examples", "split"]

HELDOUT = 0.2  # share of the examples that the head is tested on


@dataclass(frozen=True)
class Examples:
    """Token ids and labels.

    Attributes:
        ids: of each example one text, or two: the chosen and the rejected one.
        labels: the class of each example as a number; None for pairs.
        classes: their names.
        truncated: how many texts lost their beginning.
    """

    ids: list[tuple[list[int], ...]]
    labels: list[int] | None
    classes: list[str]
    truncated: int

    @property
    def outputs(self) -> int:
        """Of the head: one per class, a single one for a reward."""
        return len(self.classes) or 1

    @property
    def texts(self) -> list[list[int]]:
        """The ids of all texts."""
        return [ids for example in self.ids for ids in example]

    @property
    def baseline(self) -> float:
        """The accuracy of always answering the most frequent class; a half for pairs."""
        return 0.5 if self.labels is None else max(np.bincount(self.labels)) / len(self.labels)


def class_examples(found: LabelledTexts, tokenizer: PreTrainedTokenizerBase, longest: int) -> Examples:
    """Texts with their classes, up to `longest` tokens each, of which the last ones are kept.

    Raises:
        LinscoreError: for an empty text, or fewer than two classes with two texts each.
    """
    classes = sorted(set(found.labels))
    rare = [name for name in classes if found.labels.count(name) < 2]
    if len(classes) < 2 or rare:
        what = f"class {rare[0]!r} has one text" if rare else f"every label is {classes[0]!r}"
        raise LinscoreError(f"{what}: give two classes or more of two texts or more, or check `label_field`")
    ids, truncated = _cut(found.texts, tokenizer, longest)
    labels = [classes.index(label) for label in found.labels]
    return Examples([(one,) for one in ids], labels, classes, truncated)


def preference_examples(found: Preferences, tokenizer: PreTrainedTokenizerBase, longest: int) -> Examples:
    """Pairs of texts; as `class_examples`.

    Raises:
        LinscoreError: for an empty text, or a single pair.
    """
    if len(found.chosen) < 2:
        raise LinscoreError("there is one pair: give two or more")
    (chosen, cut), (rejected, also) = (_cut(texts, tokenizer, longest) for texts in found)
    return Examples(list(zip(chosen, rejected, strict=True)), None, [], cut + also)


def split(examples: Examples, seed: int) -> tuple[list[int], list[int]]:
    """Places of the examples to train and to test on: a fifth is held out, of each class where there are enough."""
    from sklearn.model_selection import train_test_split

    places = list(range(len(examples.ids)))
    try:
        return tuple(train_test_split(places, test_size=HELDOUT, random_state=seed, stratify=examples.labels))
    except ValueError:  # fewer held-out examples than classes
        return tuple(train_test_split(places, test_size=HELDOUT, random_state=seed))


def _cut(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, longest: int) -> tuple[list[list[int]], int]:
    """Ids of texts, and how many were cut: at their beginning, since questions and answers stand at the end."""
    front = len(special_tokens(tokenizer)[0])
    whole = text_ids(tokenizer, texts)
    cut = [ids if len(ids) <= longest else ids[:front] + ids[front - longest :] for ids in whole]
    return cut, sum(len(ids) > longest for ids in whole)
