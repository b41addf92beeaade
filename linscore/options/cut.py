"""Which blocks go, what stands in for them, and what is asked of a cut model."""

from __future__ import annotations

from dataclasses import dataclass

from linscore.options.field import option

BY = "block_influence"  # what ranks blocks where nobody says and no text is given (decisions: What chooses)


@dataclass(frozen=True, kw_only=True)
class CutOptions:
    """Which blocks go: named, or so many of a ranking."""

    blocks: str = option("", "A plain number N: the N first blocks of the ranking.", "N|LIST", "drop")
    moments: str | None = option(None, "What `linscore score --out DIR` wrote for MODEL.", "DIR")
    by: str | None = option(
        None,
        "What ranks the blocks: perplexity, measured on a text, or a figure of a report "
        "[block_influence; with a text perplexity, measured again after each choice].",
        "METRIC",
    )
    span: int = option(1, "Rank spans of K blocks.", "K")
    sequential: bool = option(False, "Measure again after each choice, on what is left; needs a text.")


@dataclass(frozen=True, kw_only=True)
class MapOptions:
    """Which map stands in for a block."""

    rank: int | None = option(None, "The best map of rank R, stored as two factors.", "R")
    diagonal: bool = option(False, "One number for each feature.")
    mean: bool = option(False, "The mean of what is added, the same for every token.")
    ridge: str | None = option(None, "auto (least held-out error), 0 for none, or a number [auto].", "λ")


@dataclass(frozen=True, kw_only=True)
class FuseOptions:
    """What a map is fused into, and what happens where it cannot be."""

    on: str = option("auto", "intermediate (better), output (smaller moments), auto.")
    auto: bool = option(False, "Put a linear block where nothing can be fused: see linearize.")


@dataclass(frozen=True, kw_only=True)
class CompressOptions:
    """How small a decoder becomes, and how it is found out what can go: one of the first five."""

    params: float | None = option(None, "The share of the blocks' parameters that stays, such as 0.8.", "SHARE")
    memory: str | None = option(None, "Bytes of the whole model at most, such as 6GB.", "BYTES")
    kv: float | None = option(None, "The share of keys and values in the cache that stays.", "SHARE")
    latency: float | None = option(None, "The share of the time that stays, measured on this machine.", "SHARE")
    loss: float | None = option(None, "Nats per token that may be lost on the measuring text.", "NATS")
    heal: str = option("closed", "closed (projections and maps refitted), N (and steps of distillation), or none.")
    measure_tokens: int = option(16384, "Tokens of the text that every trial is measured on, at most.", "N")
    steps: bool = option(False, "Search on to the end: the whole curve of loss over what is saved.")
    latency_of: str = option("decode:1x512", "What is timed: prefill or decode, BATCHxTOKENS of the prompt.", "WHAT")
    measured: str | None = option(None, "What compress saved of MODEL and this text: nothing is run twice.", "DIR")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What models are compared on, beside the cost of a text."""

    tasks: str | None = option(None, "lm-eval tasks, such as arc_easy,boolq; names of suites stand for theirs.", "LIST")
    suite: str | None = option(None, "Tasks of others: replaceme, linearpatch, nbl, paper, pruning or modern.", "NAME")
    task_data: tuple[str, ...] = option((), "Data of a task from a local file: no network.", "NAME=FILE")
    include_path: str | None = option(None, "A folder with more lm-eval tasks, whose code runs.", "DIR")
    window: int | None = option(None, "Tokens that a model is fed at a time [its context, ≤ 2048].", "W")
    stride: int | None = option(None, "How far the window moves [half of it].", "S")
    limit: int | None = option(None, "The first N questions of each task only.", "N")
