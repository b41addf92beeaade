"""Blocks cut by the paper's figure, in-sample linearity: dropped, replaced by affine maps, and distilled."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.paper.setting import MODULES, Run, Setting
from linscore.embedded.shipped import EMBEDDED_TEXT

LLAMA, OPT = "meta-llama/Llama-2-7b-hf", "facebook/opt-1.3b"
STORIES = ("--dataset", "roneneldan/TinyStories")  # of the maps, and of distillation, as in the paper
WIKITEXT = ("test", "validation")


class Method(NamedTuple):
    """A way to cut: how it is called, what makes it, and which weights are distilled, if any."""

    name: str
    command: str
    train: str | None = None


DROPPED = Method("dropped", "prune")
REPLACED = Method("replaced", "linearize")
DISTILLED = Method("replaced, distilled", "linearize", "replacements")
ALL_DISTILLED = Method("dropped, all weights distilled", "prune", "all")


SHORTLY = ("--steps", "40", "--batch-size", "4", "--seq-len", "256")
TOLD = "distilled for 40 steps of 1,024 tokens"
COUNTS = {"embedded": (1, 3), "embedded-cosine": (3,)}  # so that all takes minutes


def counts(at: Setting, model: str) -> tuple[int, ...]:
    """How many blocks go."""
    return (1, 2, 4, 6, 8, 10) if at.full else COUNTS[model]


def cut_runs(at: Setting, model: str, methods: tuple[Method, ...]) -> list[Run]:
    """The score that chooses, and every cut."""
    name = model.replace("/", "-")
    text = (*STORIES, "--tokens", "1000000") if at.full else ("--text", at.training_text)
    scores = Run(f"cuts/{name}/scores", ("score", model, *text))
    runs = [scores]
    for method in methods:
        flag = "--drop" if method.command == "prune" else "--replace"
        for count in counts(at, model):
            by = (flag, str(count), "--by", "linearity", "--moments", at.place(scores))
            cut = Run(f"cuts/{name}/{method.command}-{count}", (method.command, model, *by))
            if cut not in runs:
                runs.append(cut)
            if method.train is not None:
                steps = () if at.full else SHORTLY
                asked = ("distil", at.place(cut), *(STORIES if at.full else text), "--train", method.train, *steps)
                runs.append(Run(f"cuts/{name}/distil-{method.command}-{count}", asked))
    return runs


def folders(at: Setting, model: str, method: Method) -> list[str]:
    """Where the cuts of a method are, by how many blocks went."""
    step = "distil-" if method.train else ""
    name = model.replace("/", "-")
    return [str(at.out / "cuts" / name / f"{step}{method.command}-{count}") for count in counts(at, model)]


def loss_runs(at: Setting, model: str, methods: tuple[Method, ...]) -> list[Run]:
    """What predicting each held-out text costs the model and its cuts: all of them side by side."""
    models = [model, *(folder for method in methods for folder in folders(at, model, method))]
    name = model.replace("/", "-")
    if at.full:
        texts = {split: ("--dataset", f"Salesforce/wikitext:wikitext-2-raw-v1:{split}") for split in WIKITEXT}
    else:
        texts = {one: ("--text", str(EMBEDDED_TEXT / f"{one}.py.txt"), "--tokens", "4096") for one in MODULES}
    return [Run(f"cuts/{name}-{text}.json", ("evaluate", *models, *given)) for text, given in texts.items()]


def added(at: Setting, model: str, methods: tuple[Method, ...]) -> dict[str, list[list[float]]]:
    """Of each method and number of blocks, the nats a token that are added on each text."""
    found: dict[str, list[list[float]]] = {method.name: [[] for _ in counts(at, model)] for method in methods}
    for run in loss_runs(at, model, methods):
        uncut, *rows = [row["loss"] for row in at.read(run)["evaluations"]]
        for place, loss in enumerate(rows):
            method, count = divmod(place, len(counts(at, model)))
            found[methods[method].name][count].append(loss - uncut)
    return found
