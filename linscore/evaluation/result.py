"""The result of evaluating a model: what it costs, and how well it predicts and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from linscore.evaluation.tasks import TaskResult
from linscore.files.json_file import json_text
from linscore.machine.versions import versions

__all__ = ["Evaluation", "to_json"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The figures of one model; what was not measured is None.

    Attributes:
        model: Hub name, folder or "embedded".
        form: "original", "dropped", "linearized", "fused", several of them, or "distilled" whatever it was before.
        parameters: their number, tied ones once.
        weights_mib: memory of parameters and buffers, in MiB.
        peak_mib: peak memory on the GPU from loading on, in MiB.
        text: where the text came from.
        window: tokens that the model was fed at a time.
        stride: how far each window was moved.
        tokens: how many tokens of the text were predicted.
        bytes: how many bytes of UTF-8 they stand for.
        loss: mean loss of a token, in nats.
        perplexity: exp of it.
        bits_per_byte: the loss in bits, per byte of text.
        tokens_per_second: predicted tokens per second of forward pass and loss.
        tasks: the results of benchmark tasks, by name.
        average: the mean of a suite's headline tasks.
        retained: the same in percent of the uncut model's.
        seconds: for everything, loading included.
    """

    model: str
    form: str
    parameters: int
    weights_mib: float
    peak_mib: float | None = None
    text: str | None = None
    window: int | None = None
    stride: int | None = None
    tokens: int | None = None
    bytes: int | None = None
    loss: float | None = None
    perplexity: float | None = None
    bits_per_byte: float | None = None
    tokens_per_second: float | None = None
    tasks: dict[str, TaskResult] = field(default_factory=dict)
    average: float | None = None
    retained: float | None = None
    seconds: float = 0.0


def to_json(evaluations: Sequence[Evaluation]) -> str:
    """All figures, and the versions they were computed with; figures that are not finite are null."""
    data = {"evaluations": [asdict(evaluation) for evaluation in evaluations], "versions": versions()}
    return json_text(data)
