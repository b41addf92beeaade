"""When a figure should not be trusted as it stands: the conditions, and the line that says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from linscore.scoring.first_loss import FirstLoss
from linscore.scoring.report import NOT_FINITE, BlockReport, ScoreWarning, SpanReport
from linscore.statistics.figures import BlockMetrics

# Share of t_δ: at 2.6e-3 the score without residual moves by .001 to .002 (decisions: When rounding is warned of).
ROUNDING = 1e-3
# Of scores without residual, from 10 tokens per feature on: noise alone takes 0.2 off there.
GAP = 0.25
SENSITIVITY = 1e-4  # of the score without residual, when the cut-off of the solve is ten times higher


def find_warnings(
    blocks: Sequence[BlockReport],
    spans: Sequence[SpanReport],
    *,
    width: int,
    folds: int,
    nonfinite_rows: int,
    skipped: str | None = None,
    encoder: bool = False,
) -> list[ScoreWarning]:
    """Every doubt about the scores of `blocks` and `spans`; `skipped` is their cross-attention, if any."""
    rows = min(block.rows for block in blocks)
    found = []
    if rows < 10 * width:
        found.append(
            ScoreWarning(
                "few_tokens",
                f"{rows:,} tokens for {width:,} features: below 10 per feature in-sample scores come out too high (by "
                f"about {min(1.0, width / rows):.2f} for noise), trust the held-out ones; give {10 * width:,} tokens",
            )
        )
    if folds == 1:
        found.append(ScoreWarning("single_fold", "one fold: nothing is held out, in-sample scores only; give 2 folds"))
    if nonfinite_rows:
        found.append(
            ScoreWarning("nonfinite_rows", f"{nonfinite_rows:,} tokens turned NaN or infinite: left out of every block")
        )
    if encoder:
        found.append(
            ScoreWarning(
                "encoder",
                "scored as an encoder, as was asked: whether tokens see later ones was not tried, and what predicting "
                "the text costs was not measured",
            )
        )
    if skipped is not None:
        found.append(
            ScoreWarning(
                "cross_attention",
                f"{skipped} of the blocks attends to an encoder or to images, and there were none: it was skipped, and "
                "the scores are of what the blocks do without it",
            )
        )
    return found + [warning for check in _CHECKS for warning in [_concerning(blocks, spans, *check)] if warning]


def misfit_warnings(first: FirstLoss | None) -> list[ScoreWarning]:
    """The doubt whether text and model belong together, where there is one."""
    if first is None or first.loss <= first.guessing:
        return []
    return [
        ScoreWarning(
            "text_does_not_fit",
            f"predicting this text costs more than guessing, {first.guessing:.2f} nats a token (see loss): text or "
            "tokenizer are not this model's, or it is not trained; scores say little then",
        )
    ]


def unstable_warning(spread: float | None, until_stable: float) -> ScoreWarning:
    """The doubt about a text that ended before the scores were stable, at this spread of theirs."""
    found = "is not defined" if spread is None else f"is {spread:.2g} at the largest"
    return ScoreWarning(
        "not_stable",
        f"the text ended before the spread of held-out scores stayed below {until_stable:g}: it {found}; give more",
    )


def _heldout_far_below(block: BlockMetrics) -> bool:
    in_sample, heldout = block.linearity_no_residual, block.linearity_no_residual_heldout
    if in_sample is None or heldout is None or block.rows < 10 * block.width:  # see few_tokens
        return False
    return in_sample - heldout > GAP


def _concerning(
    blocks: Sequence[BlockReport],
    spans: Sequence[SpanReport],
    kind: str,
    holds: Callable[[BlockMetrics], bool],
    message: str,
) -> ScoreWarning | None:
    concerned = [block.index for block in blocks if holds(block)]
    concerned_spans = [str(one.span) for one in spans if holds(one)]
    return ScoreWarning(kind, message, concerned, concerned_spans) if concerned or concerned_spans else None


def _not_finite(block: BlockMetrics) -> bool:
    parts = [block, block.without_heavy, *(getattr(block, "sub_blocks", None) or {}).values()]
    values = [value for part in parts if part is not None for value in vars(part).values()]
    return any(isinstance(value, float) and not math.isfinite(value) for value in values)


_CHECKS: list[tuple[str, Callable[[BlockMetrics], bool], str]] = [
    (
        "rank_deficient",
        lambda block: block.rank < block.width,
        "the states do not span all features: the map is the one of minimum norm, see rank",
    ),
    (
        "cutoff_sensitivity",
        lambda block: (block.cutoff_sensitivity or 0.0) > SENSITIVITY,
        f"a ten times higher cut-off of the solve moves the score without residual by more than {SENSITIVITY}: use "
        "exact precision, or more tokens",
    ),
    (
        "rounding",
        lambda block: (block.rounding_share or 0.0) > ROUNDING,
        f"16-bit rounding of the residual stream is more than {ROUNDING:.1%} of what the block adds: scores without "
        "residual are that much too low; score in float32",
    ),
    (
        "heldout_gap",
        _heldout_far_below,
        f"held out, scores without residual lie more than {GAP} below those in-sample, though there are 10 tokens per "
        "feature: maps of one part of the text do not hold for the other; trust held-out ones, give more or other text",
    ),
    (
        "heavy_rows",
        lambda block: block.heavy_rows > 0,
        "tokens far from all others (attention sinks) weigh on these scores: compare without_heavy",
    ),
    (
        NOT_FINITE,
        _not_finite,
        "a figure is NaN or infinite, and left empty: score in float32, with exact precision, and report it",
    ),
]
