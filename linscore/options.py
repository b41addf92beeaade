"""What can be asked of linscore: every option once, with its default and what it means.

The command line (`linscore.cli.takes`), jobs and rooms take these classes; a command's own defaults are an instance.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from linscore.errors import LinscoreError, above_zero, all_of, at_least, whole
from linscore.spans import Span

MOST_FOLDS = 10_000  # a slip of the finger must not fill the memory
BY = "block_influence"  # what ranks blocks where nobody says and no text is given (decisions: What chooses)


def option(default: Any, meaning: str, metavar: str | None = None, flag: str | None = None) -> Any:
    """A field that is an option too; `flag` is its name where that is not the field's own."""
    return field(default=default, metadata={"help": meaning, "metavar": metavar, "flag": flag})


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """What is read, and how it is cut into sequences and batches."""

    text: str | None = option(None, "Text: a file, a folder, jsonl, json, parquet, or - for standard input.", "PATH")
    dataset: str | None = option(None, "A `datasets` name (NAME, NAME:CONFIG or NAME:CONFIG:SPLIT), streamed.", "NAME")
    tokens: int | None = option(None, "Stop after N tokens [default: all; 1,000,000 of a dataset].", "N")
    seq_len: int | None = option(None, "Tokens in a sequence [default: the model's context, ≤ 2048].", "L")
    batch_size: int | None = option(None, "Sequences in a batch [default: 4,096 tokens; GPU 16,384].", "B")

    @property
    def given(self) -> bool:
        """Whether a text is named."""
        return self.text is not None or self.dataset is not None


@dataclass(frozen=True, kw_only=True)
class LabelledOptions:
    """Which labelled texts are read, and where text and label stand in them."""

    data: str | None = option(None, "Labelled texts: jsonl, json, csv or parquet.", "FILE")
    dataset: str | None = option(None, "A `datasets` name (NAME:CONFIG:SPLIT) instead.", "NAME")
    text_field: str = option("text", "Column of the text; several, joined: a,b.")
    label_field: str = option("label", "Column of the label.")


@dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """What a model is computed in, where, and whether code that it brings may run."""

    dtype: str = option("auto", "auto, float32, bfloat16 or float16.")
    device: str = option("auto", "auto, cpu, cuda, cuda:1, …")
    trust_remote_code: bool = option(False, "Run code that the model brings: read it first.")


@dataclass(frozen=True, kw_only=True)
class LargeOptions:
    """How a model is scored that is larger than its device."""

    placement: str = option("auto", "auto, whole, map (spread over devices) or stream (block by block).")
    scratch: str | None = option(None, "For stream: a folder for states and moments [default: memory].", "DIR")


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What a score is planned for."""

    devices: str | None = option(None, "Such as 8xH100, RTX4090 or cpu [default: this machine].", "[N x]CARD")


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """What of a decoder is scored, and how; the command line has the first seven, whose help says more.

    Attributes:
        folds: 1 leaves the held-out figures empty. Folds follow the text, never the batch.
        skip_first: positions at the start of each sequence that do not count (attention sinks live there).
        until_stable: stop once the spread of every held-out score was below it twice (`linscore.scoring.looks`).
        encoder: tokens may see later ones; what predicting the text costs is not measured then.
        blocks: indices of the blocks to score; all by default.
        spans: consecutive blocks scored as one map, also beyond `blocks`; a single one is taken as one of `blocks`.
        fuse: spans whose map is to go into the MLP projection before them: from its p inputs, 8·p·(p + d) bytes a fold.
        fuse_output: the same from the projection's d outputs, 16·d² bytes a fold.
        skip_tokens: token ids whose positions do not count, such as the special ones.
        backend: "triton" or "eager"; by default $LINSCORE_BACKEND, else what fits the device.

    Examples:
        >>> linscore.score(model, batches, linscore.ScoreOptions(folds=4, skip_first=1)).folds
        4
    """

    folds: int = option(2, "Cross-validation folds for held-out scores.")
    skip_first: int = option(0, "Leave out the first K positions.")
    precision: str = option("fast", "fast or exact.")
    sub_blocks: bool = option(False, "Score attention and MLP apart too.")
    until_stable: float | None = option(None, "Stop once held-out scores differ less than S between folds.", "S")
    encoder: bool = option(False, "Score an encoder: its tokens may see later ones.")
    sensitivity: int | None = option(None, "Expected loss of every block: gradients on the first N tokens.", "N")
    blocks: Collection[int] | None = None
    spans: Collection[Span] = ()
    fuse: Collection[Span] = ()
    fuse_output: Collection[Span] = ()
    skip_tokens: Collection[int] = ()
    backend: str | None = None

    def __post_init__(self) -> None:
        whole("folds", self.folds, 1, MOST_FOLDS)  # 1: no held-out scores
        whole("skip_first", self.skip_first, 0)
        at_least("sensitivity", self.sensitivity, 1)
        if self.until_stable is not None:
            above_zero("until_stable", self.until_stable)
            if self.folds == 1:
                raise LinscoreError("`until_stable` needs held-out scores, and one fold has none: give 2 `folds`")
        for name in ("blocks", "skip_tokens"):
            if getattr(self, name) is not None:
                all_of(name, getattr(self, name), Integral, "whole numbers")
        for name in ("spans", "fuse", "fuse_output"):
            all_of(name, getattr(self, name), Span, "Span")


@dataclass(frozen=True, kw_only=True)
class SelectOptions:
    """Which blocks, spans and tokens are meant, in words: a model says what they are."""

    skip_special: bool = option(False, "Leave out the positions of special tokens.")
    skip_shards: bool = option(False, "Leave out shards of the dataset that stay broken, and say so.")
    blocks: str | None = option(None, "Blocks to score, such as 0-5,7 [default: all].", "LIST")
    collect_for: str | None = option(None, "Collect more moments: spans, fuse, fuse-output.", "LIST", "for")
    span_lengths: str = option("2", "Blocks in a span, such as 2-4.", "LIST")


@dataclass(frozen=True, kw_only=True)
class SaveOptions:
    """What becomes of a result that is there."""

    overwrite: bool = option(False, "Replace a result of another model or text, or a run that was interrupted.")


@dataclass(frozen=True, kw_only=True)
class KeepOptions:
    """When a run that takes long is saved, so that it can be gone on with.

    Examples:
        >>> len(linscore.score(model, batches, out="kept", keep=linscore.KeepOptions(save_minutes=30)).blocks)
        6
    """

    save_minutes: float = option(10.0, "Minutes between saves of what is collected.", "N")
    save_tokens: int | None = option(None, "Tokens between saves, where that is sooner.", "N")

    def __post_init__(self) -> None:
        above_zero("save_minutes", self.save_minutes)
        at_least("save_tokens", self.save_tokens, 1)


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
    """How small a decoder becomes, and how it is found out what can go: one of the first four."""

    params: float | None = option(None, "The share of the blocks' parameters that stays, such as 0.8.", "SHARE")
    memory: str | None = option(None, "Bytes of the whole model at most, such as 6GB.", "BYTES")
    kv: float | None = option(None, "The share of keys and values in the cache that stays.", "SHARE")
    loss: float | None = option(None, "Nats per token that may be lost on the measuring text.", "NATS")
    heal: str = option("closed", "closed (projections and maps refitted), or none.")
    measure_tokens: int = option(16384, "Tokens of the text that every trial is measured on, at most.", "N")
    steps: bool = option(False, "Search on to the end: the whole curve of loss over what is saved.")
    measured: str | None = option(None, "What compress saved of MODEL and this text: nothing is run twice.", "DIR")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What models are compared on, beside the cost of a text."""

    tasks: str | None = option(None, "lm-eval tasks, such as arc_easy,boolq,cb.", "LIST")
    suite: str | None = option(None, "Tasks of others: replaceme, linearpatch, nbl, paper or modern.", "NAME")
    task_data: tuple[str, ...] = option((), "Data of a task from a local file: no network.", "NAME=FILE")
    include_path: str | None = option(None, "A folder with more lm-eval tasks, whose code runs.", "DIR")
    window: int | None = option(None, "Tokens that a model is fed at a time [its context, ≤ 2048].", "W")
    stride: int | None = option(None, "How far the window moves [half of it].", "S")
    limit: int | None = option(None, "The first N questions of each task only.", "N")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How weights are trained."""

    steps: int | None = option(None, "Updates.", "N")
    learning_rate: float | None = option(None, "Its peak.", "R")
    seed: int | None = option(None, "Of everything that is random.", "N")
    save_every: int | None = option(None, "Steps between checkpoints.", "N")


@dataclass(frozen=True, kw_only=True)
class DistilOptions:
    """What a cut model is trained towards, and which losses count."""

    teacher: str | None = option(None, "The original [default: the model that STUDENT was cut from].", "MODEL")
    train: str = option("replacements", "replacements, or all weights.")
    hidden: float = option(1.0, "Weight of the states' error.", "W")
    kl: float = option(1.0, "Weight of the logits' divergence.", "W")
    lm: float = option(0.0, "Weight of the next token's loss.", "W")


@dataclass(frozen=True, kw_only=True)
class RegularizerOptions:
    """What keeps blocks close to the identity, or to linear maps, while a decoder is trained."""

    regularizer: str | None = option(None, "Between consecutive states: none, mse or cosine.", "KIND")
    weight: float | None = option(None, "Of the regularizer.", "λ")


@dataclass(frozen=True, kw_only=True)
class StatesOptions:
    """What states in files are of."""

    model: str | None = option(None, "Name of their model, for the report and what follows [the folder].", "NAME")
    states: str | None = option(None, "Which states of the model they are, such as 1-4 [default: from 0].", "LIST")
    raw_last: bool = option(False, "The last is not behind the final norm (vLLM's): score its block.")


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """What a head is fine-tuned for, and how often."""

    task: str = option("classification", "classification, or reward for pairs.")
    chosen_field: str = option("chosen", "Of a pair, the column of the better text.")
    rejected_field: str = option("rejected", "Of a pair, the column of the other.")
    seeds: int = option(3, "How many fine-tunings.", "N")
    epochs: int = option(3, "Passes over the examples.", "N")
    longest: int | None = option(None, "Tokens of a text, the last ones [the context, at most 512].", "L")
    score_text: str | None = option(None, "Text to score on [the texts of the data].", "PATH")


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """What a probe reads."""

    pool: str = option("last", "last: the last token's state; mean: of all tokens.")


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """The states that kernels are timed on."""

    width: int | None = option(None, "Features of a token [default: 768; GPU 4,096].", "D")


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """Which launch parameters are measured, for how long, and which table is rewritten."""

    widths: str | None = option(None, "Widths to tune, such as 768,2048 [all 18].", "LIST", "tune-widths")
    paths: str | None = option(None, "Of single, split, residual [all].", "LIST", "tune-paths")
    seconds: float | None = option(None, "Try no further launch after S seconds.", "S", "tune-seconds")
    file: str | None = option(None, "The table to write [the one that is installed].", "FILE", "tune-file")


DISTIL_TEXT = TextOptions(batch_size=8)
DISTIL_TRAINING = TrainingOptions(steps=500, save_every=100)
DISTIL_PLACE = PlaceOptions(dtype="float32")  # the teacher's; the student trains in float32
FINETUNE_TEXT = TextOptions(tokens=100_000, batch_size=16)
PROBE_TRAINING = TrainingOptions(seed=0)
