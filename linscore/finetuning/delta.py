"""The result of `linscore finetune-delta`: scores before and after fine-tuning, and their difference over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from linscore.files.json_file import json_text
from linscore.scoring.block_figures import FIGURES, BlockFigures, mean_of
from linscore.terminal import ranges

__all__ = ["FinetuneDelta", "SeedResult", "Spread"]


@dataclass(frozen=True)
class SeedResult:
    """One fine-tuning.

    Attributes:
        seed: of head, split and order.
        accuracy: on the examples that were held out.
        loss: of the last update.
        after: the scores behind it.
    """

    seed: int
    accuracy: float
    loss: float
    after: BlockFigures


def not_learned(seeds: Sequence[SeedResult], baseline: float) -> list[str]:
    """A warning where heads do no better on held-out examples than an answer without a model."""
    failed = [one for one in seeds if one.accuracy <= baseline]
    if not failed:
        return []
    which = f"seed{'s' * (len(failed) > 1)} {ranges([one.seed for one in failed])}"
    return [
        f"{which}: on held-out examples no better than without a model ({baseline:.4f}), so what moved "
        "says little about the task: give more examples or epochs, or another learning rate"
    ]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; None for a single one."""

    mean: float
    std: float | None

    @staticmethod
    def of(values: Sequence[float | None]) -> Spread | None:
        """None where a value is not defined."""
        if None in values:
            return None
        found = [float(value) for value in values if value is not None]
        return Spread(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None)


@dataclass(frozen=True, kw_only=True)
class FinetuneDelta:
    """Scores of one model before and after fine-tuning on one task.

    Attributes:
        model: Hub name, folder or "embedded".
        task: "classification" or "reward".
        data: file or dataset.
        examples: how many; a fifth of them held out.
        truncated: how many texts lost their beginning.
        classes: their names; none for a reward.
        baseline: accuracy without a model.
        scored_text: what was scored.
        tokens: how many of them.
        settings: of the fine-tuning.
        before: scores of the model as it was.
        seeds: one result each.
        warnings: of the scores before, and of seeds that have learned nothing.
        versions: of what the figures depend on.
    """

    model: str
    task: str
    data: str
    examples: int
    truncated: int
    classes: list[str]
    baseline: float
    scored_text: str
    tokens: int
    settings: dict[str, Any]
    before: BlockFigures
    seeds: list[SeedResult]
    warnings: list[str]
    versions: dict[str, str]

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        return len(self.before[FIGURES[0]])

    @property
    def accuracy(self) -> Spread:
        """On held-out examples, over the seeds."""
        found = Spread.of([one.accuracy for one in self.seeds])
        assert found is not None
        return found

    def base(self, figure: str, block: int | None) -> float | None:
        """A figure before fine-tuning: of a block, or (None) the mean over all."""
        return _at(self.before[figure], block)

    def delta(self, figure: str, block: int | None) -> Spread | None:
        """After less before, over the seeds."""
        before = self.base(figure, block)
        after = [_at(one.after[figure], block) for one in self.seeds]
        return Spread.of([None if None in (value, before) else value - before for value in after])  # type: ignore[operator]

    def to_json(self, folder: str | Path | None = None) -> str:
        """The text of `finetune.json`: the attributes, and as `delta` means and spreads per block and over all.

        In `folder` absolute paths are as they lie from there; None: as typed.
        """
        delta = {
            figure: {
                "blocks": [_plain(self.delta(figure, block)) for block in range(self.depth)],
                "mean": _plain(self.delta(figure, None)),
            }
            for figure in FIGURES
        }
        data = asdict(self) | {"accuracy": asdict(self.accuracy), "delta": delta}
        return json_text(data, folder)


def _at(values: Sequence[float | None], block: int | None) -> float | None:
    return mean_of(values) if block is None else values[block]


def _plain(spread: Spread | None) -> dict[str, float | None] | None:
    return None if spread is None else asdict(spread)
