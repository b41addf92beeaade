"""Figure 3: the length of what a block adds, against that of the stream."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.paper.claims import AGREES, DISAGREES, Claim, Part, Seen, script
from benchmarks.paper.figure_1 import on
from benchmarks.paper.scores import score_runs, scored
from benchmarks.paper.setting import Setting


def found(at: Setting) -> Any:
    """Of each model ‖δ‖/‖x‖ of every block, means over tokens."""
    return {name: [block["delta_ratio"] for block in report["blocks"]] for name, report in scored(at).items()}


def short(models: Any, full: bool) -> Seen:
    """Half of a model's blocks, at least, add less than half of what enters."""
    told = (
        f"{name} median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f} over blocks"
        for name, ratios in models.items()
    )
    low = max(statistics.median(ratios) for ratios in models.values()) < 0.5
    return Seen(f"‖δ‖/‖x‖: {'; '.join(told)}", on(full), AGREES if low else DISAGREES)


PART = Part(
    "Figure 3",
    "the length of what a block adds, against that of the stream",
    score_runs,
    found,
    (Claim("What a block adds is short beside the residual stream.", short),),
)

if __name__ == "__main__":
    script(PART)
