"""What a user can mend: the message says what was wrong and what to do, in one line; the CLI exits with 2.

Arguments stand between backticks in messages, alone or with a value: `seq_len`, `precision=exact`. A caller from Python
reads them as they are, and the command line puts its options in their place.
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection
from numbers import Integral
from types import UnionType

from linscore_kernels.errors import LinscoreError

__all__ = ["Interrupted", "LinscoreError", "LinscoreWarning", "reason"]


class LinscoreWarning(UserWarning):
    """Something that is not as its caller may think, and no reason to stop."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with one line that says how to go on."""


def reason(error: BaseException) -> str:
    """The message of a foreign error in one line of moderate length."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def at_least(what: str, value: object, least: int, most: int | None = None) -> None:
    """Raise LinscoreError where the argument `what` is given and no whole number, too small or too large."""
    if value is not None:
        whole(what, value, least, most)


def whole(what: str, value: object, least: int, most: int | None = None) -> None:
    """Raise LinscoreError unless the argument `what` is a whole number from `least` on, up to `most`."""
    if not isinstance(value, Integral):
        raise LinscoreError(f"`{what}` is {value!r}: give a whole number")
    if int(value) < least:
        raise LinscoreError(f"`{what}` is {value}: give {least} or more")
    if most is not None and int(value) > most:
        raise LinscoreError(f"`{what}` is {value}: give {most:,} or less")


def all_of(what: str, values: object, kind: type | UnionType, called: str) -> None:
    """Raise LinscoreError unless the argument `what` is a list, a set or the like of `kind`, which is `called` so."""
    listed = isinstance(values, Collection) and not isinstance(
        values, str
    )  # whose letters would be taken for its items
    if not listed or not all(isinstance(value, kind) for value in values):  # type: ignore[attr-defined]
        raise LinscoreError(f"`{what}` is {reprlib.repr(values)}: give a list of {called}")


def above_zero(what: str, value: float) -> None:
    """Raise LinscoreError unless the argument `what` is finite and above 0."""
    if not 0 < value < float("inf"):
        raise LinscoreError(f"`{what}` is {value}: give a number above 0")


def one_of(what: str, value: object, known: Collection[str]) -> None:
    """Raise LinscoreError unless the argument `what` is one of the known words."""
    if value not in known:
        raise LinscoreError(f"`{what}` is {value!r}: choose {', '.join(known)}")
