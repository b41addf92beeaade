"""Figure 7: the same of OPT 1.3B, and with all weights distilled."""

from __future__ import annotations

from typing import Any

from benchmarks.paper.claims import Part, script
from benchmarks.paper.cuts import ALL_DISTILLED, DISTILLED, DROPPED, OPT, REPLACED, TOLD, added, cut_runs, loss_runs
from benchmarks.paper.figure_6 import SHIPPED, cheaper
from benchmarks.paper.setting import Run, Setting

METHODS = (DROPPED, REPLACED, DISTILLED, ALL_DISTILLED)
SHIPPED[OPT] = f"the built-in decoder with the cosine regularizer, 3 of 10 blocks, {TOLD}"


def model(at: Setting) -> str:
    """What is cut."""
    return OPT if at.full else "embedded-cosine"


def runs(at: Setting) -> list[Run]:
    """Cuts, and what they cost."""
    return [*cut_runs(at, model(at), METHODS), *loss_runs(at, model(at), METHODS)]


def found(at: Setting) -> Any:
    """Of each method and number of blocks, what is added on each text."""
    return added(at, model(at), METHODS)


PART = Part(
    "Figure 7",
    "the same of a second decoder, and dropped with all weights distilled",
    runs,
    found,
    (
        cheaper(REPLACED.name, DROPPED.name, OPT),
        cheaper(DISTILLED.name, REPLACED.name, OPT),
        cheaper(ALL_DISTILLED.name, DROPPED.name, OPT),
    ),
)

if __name__ == "__main__":
    script(PART)
