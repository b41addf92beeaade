"""Figure 8: answers of a cut OPT 1.3B to ARC easy."""

from __future__ import annotations

from typing import Any

from benchmarks.paper.claims import Claim, Part, Seen, beyond, script
from benchmarks.paper.cuts import DISTILLED, DROPPED, OPT, REPLACED, TOLD, counts, cut_runs, folders
from benchmarks.paper.setting import QUESTIONS, Run, Setting

METHODS = (DROPPED, REPLACED, DISTILLED)


def model(at: Setting) -> str:
    """What is cut."""
    return OPT if at.full else "embedded"


def runs(at: Setting) -> list[Run]:
    """Cuts, and one evaluation of all of them."""
    models = [model(at), *(folder for method in METHODS for folder in folders(at, model(at), method))]
    data = () if at.full else ("--task-data", f"arc_easy={at.questions}")
    answers = Run("arc_easy.json", ("evaluate", *models, "--tasks", "arc_easy", *data))
    return [*cut_runs(at, model(at), METHODS), answers]


def found(at: Setting) -> Any:
    """Accuracy and its standard error: of the whole model, and of each method by number of blocks."""
    rows = [row["tasks"]["arc_easy"] for row in at.read(runs(at)[-1])["evaluations"]]
    whole, *cut = [(row["value"], row["stderr"]) for row in rows]
    each = len(counts(at, model(at)))
    return whole, {one.name: cut[at * each : (at + 1) * each] for at, one in enumerate(METHODS)}


def better(by: str, than: str) -> Claim:
    """That one way of cutting leaves more right answers, at the most blocks."""

    def seen(answers: Any, full: bool) -> Seen:
        whole, cut = answers
        (more, one), (less, other) = cut[by][-1], cut[than][-1]
        told = "; ".join(f"{name} {', '.join(map(_accuracy, cut[name]))}" for name in (than, by))
        shipped = f"figure 6's cuts ({TOLD}); which of four lines comes next, in ARC's form, {QUESTIONS} times"
        on = "OPT 1.3B, ARC easy" if full else shipped
        return Seen(f"accuracy {_accuracy(whole)} whole; {told}", on, beyond(more - less, (one**2 + other**2) ** 0.5))

    return Claim(f"{by.capitalize()} answers more than {than}.", seen)


def _accuracy(of: tuple[float, float]) -> str:
    return f"{of[0]:.3f} ± {of[1]:.3f}"


PART = Part(
    "Figure 8",
    "answers of cut decoders",
    runs,
    found,
    (better(REPLACED.name, DROPPED.name), better(DISTILLED.name, REPLACED.name)),
)

if __name__ == "__main__":
    script(PART)
