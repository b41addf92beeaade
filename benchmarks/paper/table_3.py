"""Table 3: grades of stories that decoders write, trained with and without regularizers."""

from __future__ import annotations

from typing import Any

from benchmarks.paper.claims import NOT_MEASURED, Claim, Part, Seen, beyond, script
from benchmarks.paper.scores import SHIPPED
from benchmarks.paper.setting import BEGUN, Run, Setting
from benchmarks.paper.trained import TABLE, models, train_runs

STORIES = ("--dataset", "roneneldan/TinyStories::validation")
REFERENCE = "openai-community/gpt2-large"  # where no endpoint is named


def runs(at: Setting) -> list[Run]:
    """Stories of all decoders before one judge; of those that ship each before the other."""
    if at.full:
        judge = at.judge or ("--reference", REFERENCE)
        return [*train_runs(), Run("table-3.json", ("judge", *models(at), *STORIES, *judge))]
    short = ("--text", at.begun, "--stories", str(BEGUN), "--new-tokens", "64")
    pairs = (SHIPPED, SHIPPED[::-1])
    return [Run(f"table-3-{one}.json", ("judge", one, "--reference", other, *short)) for one, other in pairs]


def found(at: Setting) -> Any:
    """Of each decoder its grades, and of the texts themselves, as mean and standard error of the one that counts."""
    if at.full:
        [itself, *rows] = at.read(runs(at)[-1])["judged"]
        return {f"{size} {kind} {weight:g}": _grade(row) for (size, kind, weight), row in zip(TABLE, rows, strict=True)}
    excess = {}
    for name, run in zip(SHIPPED, runs(at), strict=True):
        itself, written = (_grade(row) for row in at.read(run)["judged"])
        excess[name] = (written[0] - itself[0], (written[1] ** 2 + itself[1] ** 2) ** 0.5)
    return excess


def _grade(row: Any) -> tuple[float, float]:
    grade = row["grades"].get("mean") or row["grades"]["loss"]
    return grade["mean"], grade["stderr"]


def graded(grades: Any, full: bool) -> Seen:
    """The judge's word, which nothing that ships can give."""
    if not full:
        return Seen("", "", NOT_MEASURED)
    told = "; ".join(f"{name}: {mean:.2f} ± {error:.2f}" for name, (mean, error) in grades.items())
    (plain, one), (regularized, other) = grades["650M none 0"], grades["650M cosine 0.5"]
    sign = 1 if max(plain, regularized) > 5 else -1  # grades go up to 10; a reference's nats are the better the lower
    return Seen(told, "the paper's sizes", beyond(sign * (regularized - plain), (one**2 + other**2) ** 0.5))


def likelier(excess: Any, full: bool) -> Seen:
    """How much more what is written costs a reference decoder than how the texts go on."""
    if full:
        return Seen("", "", NOT_MEASURED)
    (plain, one), (regularized, other) = (excess[name] for name in SHIPPED)
    here = "; ".join(f"{name} {mean:+.2f} ± {error:.2f}" for name, (mean, error) in excess.items())
    on = f"{BEGUN} pieces of held-out Python, 64 tokens written on, each decoder before the other"
    verdict = beyond(plain - regularized, (one**2 + other**2) ** 0.5)
    return Seen(f"beyond the texts' own: {here} nats a token", on, verdict)


PART = Part(
    "Table 3",
    "grades of stories that decoders write, trained with and without regularizers",
    runs,
    found,
    (
        Claim("GPT-4 grades stories of the regularized decoder higher (5.39 to 6.08 of 10).", graded),
        Claim("(offline) What the regularized decoder writes is likelier to a reference decoder.", likelier),
    ),
)

if __name__ == "__main__":
    script(PART)
