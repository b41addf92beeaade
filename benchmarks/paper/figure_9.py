"""Figure 9: how errors of single tokens are spread."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.paper.claims import AGREES, DISAGREES, Claim, Part, Seen, script
from benchmarks.paper.scores import WEB
from benchmarks.paper.setting import Run, Setting

TAIL = 3.8  # 99 % over 50 % of |N(0, 1)|: errors in many features without a tail lie below, near 1


def runs(at: Setting) -> list[Run]:
    """The tokens of a model."""
    model, text = ("facebook/opt-1.3b", WEB) if at.full else ("embedded", ("--tokens", "65536"))
    return [Run("tokens", ("tokens", model, *text))]


def found(at: Setting) -> Any:
    """Of each block behind the first the 99 % quantile over the median of the errors, and Hill's index."""
    blocks = at.read(runs(at)[0], "tokens.json")["blocks"][1:]
    tails = [(one["quantiles"]["0.99"] / one["quantiles"]["0.5"]) ** 0.5 for one in blocks]
    return tails, [one["tail_index"] for one in blocks]


def _on(full: bool) -> str:
    return "OPT 1.3B, FineWeb" if full else "the built-in decoder, 65,536 tokens of held-out Python"


def long_tails(figures: Any, full: bool) -> Seen:
    """Some blocks have errors of 1 % of the tokens that are far from the median's."""
    tails, hill = figures
    alphas = [one for one in hill if one is not None]
    here = (
        f"L2 errors: 99 % over 50 % is {min(tails):.1f} to {max(tails):.1f} over blocks, median "
        f"{statistics.median(tails):.1f} (of a half-normal: {TAIL}); Hill's α {min(alphas):.1f} to {max(alphas):.1f}"
    )
    return Seen(here, _on(full), AGREES if max(tails) > TAIL else DISAGREES)


PART = Part(
    "Figure 9",
    "how errors of single tokens are spread",
    runs,
    found,
    (Claim("Some blocks have a long tail of errors: few tokens are treated far less linearly.", long_tails),),
)

if __name__ == "__main__":
    script(PART)
