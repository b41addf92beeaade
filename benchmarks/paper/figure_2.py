"""Figure 2: mean linearity while decoders are trained."""

from __future__ import annotations

from typing import Any

from benchmarks.paper.claims import Claim, Part, Seen, beyond, over, paired, script
from benchmarks.paper.scores import WEB
from benchmarks.paper.setting import Run, Setting
from benchmarks.paper.trained import ON_SEEDS, seeds

STEPS = ("step512", "step1000", "step8000", "step64000", "step143000")
SERIES = {
    "EleutherAI/pythia-70m": STEPS,
    "EleutherAI/pythia-2.8b": STEPS,
    **{
        f"bigscience/{size}-intermediate": ("global_step1000", "global_step10000", "global_step100000")
        for size in ("bloom-560m", "bloom-1b1", "bloom-3b", "bloom-7b1")
    },
}


def runs(at: Setting) -> list[Run]:
    """Checkpoints that are on the Hub; those of OPT and TinyLlama are not revisions of one name, and left out."""
    found = []
    for name, revisions in SERIES.items() if at.full else ():
        asked = ("dynamics", name, "--revisions", ",".join(revisions), *WEB)
        found.append(Run(f"dynamics/{name.replace('/', '-')}", asked))
    return found


def found(at: Setting) -> Any:
    """Of each series the means over blocks, first (behind the start) and last."""
    if at.full:
        means = [at.read(run, "dynamics.json")["mean"] for run in runs(at)]
    else:
        means = [{key: values[1:] for key, values in run["mean"].items()} for run in seeds()["none"]]
    names = ("linearity_no_residual_heldout", "linearity_heldout")
    return [[(mean[name][0], mean[name][-1]) for name in names] for mean in means]


def _falls(which: int, word: str) -> Claim:
    def seen(series: Any, full: bool) -> Seen:
        first, last = ([one[which][end] for one in series] for end in (0, 1))
        fall, error = paired([a - b for a, b in zip(first, last, strict=True)])
        here = f"{word}: {over(first)} early, {over(last)} at the end, fall {fall:.3f} ± {error:.3f}"
        return Seen(here, f"{len(SERIES)} series of the Hub" if full else ON_SEEDS, beyond(fall, error))

    return Claim(f"While decoders learn, mean linearity {word} falls.", seen)


PART = Part(
    "Figure 2",
    "mean linearity while decoders are trained",
    runs,
    found,
    (_falls(0, "without the residual"), _falls(1, "with the residual")),
)

if __name__ == "__main__":
    script(PART)
