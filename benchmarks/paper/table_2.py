"""Table 2: tasks of SuperGLUE, of decoders trained with and without regularizers."""

from __future__ import annotations

from typing import Any

from benchmarks.paper.claims import NOT_MEASURED, Claim, Part, Seen, beyond, over, paired, script
from benchmarks.paper.setting import Run, Setting
from benchmarks.paper.trained import ON_SEEDS, TABLE, models, seeds, train_runs


def runs(at: Setting) -> list[Run]:
    """The paper's six decoders on its ten figures."""
    return [*train_runs(), Run("table-2.json", ("evaluate", *models(at), "--tasks", "paper"))] if at.full else []


def found(at: Setting) -> Any:
    """The means of the ten figures, and the losses of the committed runs at the end."""
    rows = at.read(runs(at)[-1])["evaluations"] if at.full else []
    means = {one[:3]: row["average"] for one, row in zip(TABLE, rows, strict=bool(rows))}
    return means, {kind: [run["heldout_loss"][-1] for run in of] for kind, of in seeds().items()}


def answers_more(results: Any, full: bool) -> Seen:
    """The paper's sizes; nothing that ships has learnt any English."""
    if not full:
        return Seen("", "", NOT_MEASURED)
    means, _ = results
    gain, error = paired([means[size, "cosine", 0.5] - means[size, "none", 0.0] for size in ("150M", "650M")])
    told = "; ".join(f"{size} {kind} {weight:g}: {mean:.4f}" for (size, kind, weight), mean in means.items())
    return Seen(told, "the paper's sizes, one seed of each", beyond(gain, error))


def predicts(kind: str) -> Claim:
    """That a regularized decoder predicts held-out text better, seed by seed."""

    def seen(results: Any, _full: bool) -> Seen:
        _, losses = results
        gain, error = paired([a - b for a, b in zip(losses["none"], losses[kind], strict=True)])
        here = f"plain {over(losses['none'])}, {kind} {over(losses[kind])} nats a token, gain {gain:+.3f} ± {error:.3f}"
        return Seen(here, ON_SEEDS, beyond(gain, error))

    return Claim(f"(nearest that ships) Trained with {kind}, a decoder predicts held-out text better.", seen)


PART = Part(
    "Table 2",
    "tasks of SuperGLUE, of decoders trained with and without regularizers",
    runs,
    found,
    (
        Claim("The mean of ten SuperGLUE figures is higher with the cosine regularizer (43.3 to 46.1).", answers_more),
        predicts("cosine"),
        predicts("mse"),
    ),
)

if __name__ == "__main__":
    script(PART)
