"""The texts of `linscore compress`: one that fits, one that chooses and one that reports."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import Tensor

from linscore.evaluation.windows import Window, batch_of
from linscore.models.load import Pretrained
from linscore.text.packing import texts_within
from linscore.text.source import Text
from linscore.text.tokens import special_tokens

FIT, CHOOSE, REPORT = (0, 1), 2, 3  # folds of the text

Batches = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Texts:
    """A text in three: maps are fitted on the first, in two folds, cuts measured on the second, the third reports."""

    fit: Batches
    choose: Batches
    report: Batches

    @property
    def fitted(self) -> int:
        """Tokens that maps are fitted on."""
        return sum(batch["input_ids"].numel() for batch in self.fit)


def read_texts(loaded: Pretrained, read: Text, most: int) -> Texts:
    """The text in folds, `most` tokens at most to choose and to report on.

    Raises:
        LinscoreError: where it does not fill all of them.
    """
    folds: dict[int, Batches] = {}
    for batch in read.batches(loaded.tokenizer, loaded.context, loaded.model.device, folds=4):
        folds.setdefault(int(batch["folds"][0]), []).append(batch)
    fit = [batch for fold in FIT for batch in folds[fold]]
    before, _ = special_tokens(loaded.tokenizer)
    return Texts(fit, *(_windows(folds[fold], before, most) for fold in (CHOOSE, REPORT)))


def _windows(batches: Batches, before: list[int], most: int) -> Batches:
    """The first texts that make up no more than so many tokens, one at least, as `window_batches` has them.

    They begin as the model is given texts: a cut that lives off what stands first would look cheap without it.
    """
    rows = [row for batch in batches for row in batch["input_ids"].tolist()]
    texts = [text for row in rows for text in texts_within(row, before)]
    ends = itertools.accumulate(map(len, texts))
    count = max(1, sum(end <= most for end in ends))
    some, device = max(1, len(batches[0]["input_ids"])), batches[0]["input_ids"].device
    windows = [Window(text, len(text) - 1) for text in sorted(texts[:count], key=len)]
    return [
        {name: part.to(device) for name, part in batch_of(windows[start : start + some]).items()}
        for start in range(0, count, some)
    ]
