"""Figure 5: a label read off the states of every layer, with and without the cosine regularizer."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.paper.claims import Claim, Part, Seen, beyond, over, paired, script
from benchmarks.paper.setting import Run, Setting
from benchmarks.paper.trained import ON_SEEDS, models, seeds, train_runs

CLOZE = ("--dataset", "juletxara/xstory_cloze:en:eval", "--label-field", "answer_right_ending", "--text-field")
FIELDS = ("input_sentence_1", "input_sentence_2", "input_sentence_3", "input_sentence_4")


def runs(at: Setting) -> list[Run]:
    """Probes of the two decoders of 650M, of a story with both its endings."""
    if not at.full:
        return []
    text = ",".join((*FIELDS, "sentence_quiz1", "sentence_quiz2"))
    places = zip(("plain", "cosine"), models(at)[:2], strict=True)
    probes = [Run(f"probes/{name}", ("probe", model, *CLOZE, text)) for name, model in places]
    return [*train_runs()[:2], *probes]


def found(at: Setting) -> Any:
    """Of plain and regularized decoders the accuracy at every layer, a list for each seed."""
    if at.full:
        both = [[at.read(run, "probe.json")["layers"]] for run in runs(at)[2:]]
    else:
        both = [[run["probes"]["layers"] for run in seeds()[kind]] for kind in ("none", "cosine")]
    return [[[layer["accuracy"] for layer in layers] for layers in kind] for kind in both]


def better(ends: Any, full: bool) -> Seen:
    """The gain of the mean over layers, its error over seeds (over layers where there is one seed)."""
    gains = [[b - a for a, b in zip(*pair, strict=True)] for pair in zip(*ends, strict=True)]
    gain, error = paired(gains[0] if len(gains) == 1 else [statistics.fmean(one) for one in gains])
    means = [[statistics.fmean(one) for one in kind] for kind in ends]
    both = f"plain {over(means[0])}, regularized {over(means[1])}"
    here = f"accuracy, mean over layers: {both}, gain {gain:+.3f} ± {error:.3f}"
    on = "Mistral 650M, XStoryCloze" if full else f"which file a piece is from; {ON_SEEDS}"
    return Seen(here, on, beyond(gain, error))


PART = Part(
    "Figure 5",
    "a label read off the states of every layer, with and without the cosine regularizer",
    runs,
    found,
    (Claim("Probes read more off the states of the regularized decoder.", better),),
)

if __name__ == "__main__":
    script(PART)
