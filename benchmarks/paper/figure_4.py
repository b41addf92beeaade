"""Figure 4: linearity without the residual of every block, trained with and without the cosine regularizer."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.paper.claims import Claim, Part, Seen, beyond, over, paired, script
from benchmarks.paper.setting import Run, Setting
from benchmarks.paper.trained import ON_SEEDS, series, train_runs


def runs(at: Setting) -> list[Run]:
    """The two decoders of 650M."""
    return train_runs()[:2] if at.full else []


def found(at: Setting) -> Any:
    """Of plain and regularized runs the scores of the blocks at the end, a list for each seed."""
    last = {kind: [run["blocks"]["linearity_no_residual_heldout"][-1] for run in of] for kind, of in series(at).items()}
    return last["none"], last["cosine"]


def lower(ends: Any, full: bool) -> Seen:
    """The fall of the mean, its error over seeds (over blocks where there is one seed)."""
    plain, regularized = ends
    falls = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(plain, regularized, strict=True)]
    fall, error = paired(falls[0] if len(falls) == 1 else [statistics.fmean(one) for one in falls])
    blocks = [statistics.fmean(one) for one in zip(*falls, strict=True)]
    means = [[statistics.fmean(one) for one in kind] for kind in ends]
    here = (
        f"plain {over(means[0])}, regularized {over(means[1])}, lower in {sum(one > 0 for one in blocks)} of "
        f"{len(blocks)} blocks, fall {fall:+.3f} ± {error:.3f}"
    )
    return Seen(here, "Mistral 650M on TinyStories, one seed" if full else ON_SEEDS, beyond(fall, error))


PART = Part(
    "Figure 4",
    "linearity without the residual of every block, with and without the cosine regularizer",
    runs,
    found,
    (Claim("With the cosine regularizer every block ends up less linear, without the residual.", lower),),
)

if __name__ == "__main__":
    script(PART)
