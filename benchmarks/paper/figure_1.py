"""Figure 1: linearity of every block, with and without the residual."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.paper.claims import AGREES, DISAGREES, Claim, Part, Seen, beyond, script, spread
from benchmarks.paper.scores import MODELS, ON_SHIPPED, score_runs, scored
from benchmarks.paper.setting import Setting

CLOSE = 0.9  # "close to 1"


def found(at: Setting) -> Any:
    """Of each model the blocks' held-out scores and their spread over folds, with and without the residual."""
    return {name: [_scores(block) for block in report["blocks"]] for name, report in scored(at).items()}


def _scores(block: Any) -> list[tuple[float, float]]:
    names = ("linearity_heldout", "linearity_no_residual_heldout")
    return [(block[name], block[f"{name}_spread"]) for name in names]


def close_to_one(models: Any, full: bool) -> Seen:
    """Means over blocks, with the residual."""
    means = {name: statistics.fmean(block[0][0] for block in blocks) for name, blocks in models.items()}
    here = "; ".join(f"{name} {_told(blocks, 0)}" for name, blocks in models.items())
    return Seen(f"with residual: {here}", on(full), AGREES if min(means.values()) > CLOSE else DISAGREES)


def lower_without(models: Any, full: bool) -> Seen:
    """Means over blocks behind the first, which has no short update, without the residual."""
    later = {name: blocks[1:] for name, blocks in models.items()}
    gaps = [block[0][0] - block[1][0] for blocks in later.values() for block in blocks]
    errors = [block[1][1] / 2 for blocks in later.values() for block in blocks]  # of the mean of four folds
    here = "; ".join(f"{name} {_told(blocks, 1)}" for name, blocks in later.items())
    return Seen(f"without, blocks 1 on: {here}", on(full), beyond(statistics.fmean(gaps), statistics.fmean(errors)))


def _told(blocks: Any, which: int) -> str:
    values = [block[which][0] for block in blocks]
    folds = statistics.fmean(block[which][1] for block in blocks)
    return f"{statistics.fmean(values):.3f} ± {spread(values):.3f} over blocks (± {folds:.3f} over folds)"


def on(full: bool) -> str:
    """What was scored."""
    return f"{len(MODELS)} models, 1,000,000 tokens of FineWeb, 4 folds" if full else ON_SHIPPED


PART = Part(
    "Figure 1",
    "linearity of every block, with and without the residual",
    score_runs,
    found,
    (
        Claim("Scores with the residual are close to 1 in all decoders.", close_to_one),
        Claim("Without the residual they are far lower.", lower_without),
    ),
)

if __name__ == "__main__":
    script(PART)
