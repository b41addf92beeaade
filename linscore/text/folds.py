"""Which fold a piece of text belongs to: decided by its place in the stream, never by the batch it comes in."""

from __future__ import annotations

LONGEST_PASSAGE = 16  # sequences (decisions: Folds are dealt by text)


def passage_length(sequences: int, folds: int) -> int:
    """How many sequences the next passage may have, after so many.

    A passage goes to one fold, so that a sequence is rarely tested against its neighbours in the text; the first ones
    are short, so that a small text fills every fold too.
    """
    return min(LONGEST_PASSAGE, 1 + sequences // (4 * folds))


class FoldDealer:
    """Deals the sequences of a stream whose documents are not known, passage by passage, to the emptiest fold."""

    def __init__(self, folds: int) -> None:
        self.sequences = [0] * folds
        self._fold, self._left = 0, 0

    def next(self) -> int:
        """The fold of the next sequence."""
        if not self._left:
            self._left = passage_length(sum(self.sequences), len(self.sequences))
            self._fold = self.sequences.index(min(self.sequences))
        self._left -= 1
        self.sequences[self._fold] += 1
        return self._fold
