"""Claims of the paper, and how what was measured is held against them."""

from __future__ import annotations

import argparse
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.paper.setting import Run, Setting

AGREES, DISAGREES, UNDECIDED, NOT_MEASURED = "agrees", "disagrees", "undecided", "not measured"
Found = Any


class Seen(NamedTuple):
    """What was measured for a claim, on what, and what follows."""

    here: str
    on: str
    verdict: str


class Claim(NamedTuple):
    """A sentence of the paper, and how it is held against the results, which have the form that `found` gives them."""

    says: str
    seen: Callable[[Found, bool], Seen]


@dataclass(frozen=True)
class Part:
    """A figure or table of the paper.

    Attributes:
        name: as the paper has it.
        shows: what is to be seen there.
        runs: the commands that it takes, in their order.
        found: their results, once all are there.
        claims: what the paper says of it.
    """

    name: str
    shows: str
    runs: Callable[[Setting], list[Run]]
    found: Callable[[Setting], Found]
    claims: Sequence[Claim]

    def make(self, at: Setting) -> list[str]:
        """Run what is not there; the commands that failed."""
        failed = []
        for run in self.runs(at):
            if not at.there(run):
                try:
                    at.make(run)
                except subprocess.CalledProcessError:
                    failed.append(run.line)
        return failed

    def rows(self, at: Setting) -> list[tuple[str, str, str, str, str]]:
        """Of each claim: where, what the paper says, what was measured, on what, and the verdict."""
        if all(at.there(run) for run in self.runs(at)):
            found = self.found(at)
            return [(self.name, claim.says, *claim.seen(found, at.full)) for claim in self.claims]
        return [(self.name, claim.says, "", "", NOT_MEASURED) for claim in self.claims]


def beyond(difference: float, error: float) -> str:
    """Whether a difference is as the paper says (above 0), the contrary, or within two of its errors."""
    if abs(difference) <= 2 * error:
        return UNDECIDED
    return AGREES if difference > 0 else DISAGREES


def over(values: Sequence[float], digits: int = 3) -> str:
    """Mean and standard deviation."""
    return f"{statistics.fmean(values):.{digits}f} ± {spread(values):.{digits}f}"


def spread(values: Sequence[float]) -> float:
    """The standard deviation, 0 of one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def paired(values: Sequence[float]) -> tuple[float, float]:
    """The mean of differences, and its standard error."""
    return statistics.fmean(values), spread(values) / len(values) ** 0.5


def options(description: str | None) -> argparse.ArgumentParser:
    """What every script of the paper takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="on what ships (the default)")
    size.add_argument("--full", action="store_true", help="the paper's models and data, on a machine with a Hub")
    parser.add_argument("--out", type=Path, help="where results go, and are found again [runs/paper, runs/paper-full]")
    parser.add_argument("--list", action="store_true", help="print the commands, ✓ where the result is there")
    parser.add_argument("--endpoint", help="who judges stories (table 3): see linscore judge")
    parser.add_argument("--judge", help="the model there")
    return parser


def setting(given: argparse.Namespace) -> Setting:
    """Where, and on what."""
    out = given.out or Path("runs", "paper-full" if given.full else "paper")
    judge = ("--endpoint", given.endpoint, "--judge", given.judge) if given.endpoint else ()
    return Setting(out, given.full, judge)


def script(part: Part) -> None:
    """One figure or table by itself: what is there is not run again."""
    given = options(f"{part.name}: {part.shows}").parse_args()
    at = setting(given)
    if given.list:
        listed(part, at)
        return
    failed = part.make(at)
    for row in part.rows(at):
        print(" | ".join(row))
    if failed:
        raise SystemExit("\n".join(["failed:", *failed]))


def listed(part: Part, at: Setting) -> None:
    """Print the commands of a part."""
    for run in part.runs(at):
        print("✓" if at.there(run) else " ", run.line)
