"""The job of `linscore distil`: from a cut model and a text to a new model that does again what the original did."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from linscore.decoder.find import find_decoder
from linscore.distillation.distil import DistilLoss, distil
from linscore.distillation.folder import CURVE
from linscore.distillation.losses import Weights
from linscore.distillation.pair import measure, wanted
from linscore.distillation.plot import plot_losses
from linscore.distillation.settings import Settings, kept_if_begun
from linscore.errors import LinscoreError
from linscore.files import new_folder
from linscore.models.load import Pretrained, load_pretrained
from linscore.progress import StepProgress
from linscore.scoring.collect import Batch
from linscore.surgery.record import Record
from linscore.surgery.save import save_checkpoint
from linscore.text.source import Text

__all__ = ["Distilled", "run_distil"]

LEARNING_RATES = {"replacements": 1e-3, "all": 3e-4}  # best of three each on the built-in decoder
LONGEST = 512  # tokens of a sequence
PLOT = "losses.png"
MEASURED = 4  # batches whose losses are taken before and after

Losses = dict[str, float | None]


@dataclass(frozen=True)
class Distilled:
    """What `linscore distil` did."""

    out: Path  # the new model; beside its weights `losses.jsonl` and `losses.png`
    record: Record  # of the student, with what training did as `distilled`


def run_distil(
    student: str,
    *,
    out: str,
    teacher: str | None = None,
    text: str | None = None,
    dataset: str | None = None,
    steps: int = 500,
    batch_size: int = 8,
    seq_len: int | None = None,
    learning_rate: float | None = None,
    train: str = "replacements",
    hidden: float = 1.0,
    kl: float = 1.0,
    lm: float = 0.0,
    save_every: int = 100,
    resume: bool = False,
    dtype: str = "float32",
    device: str = "auto",
) -> Distilled:
    """Train a cut model towards its original and save it to `out`; the arguments are the options of `linscore distil`.

    The record's `distilled` holds these options and, as "before" and "after", the student's losses without and with all
    updates on the same batches, the first four of the text. They are of the training text: what was won on other text,
    `linscore evaluate` says.

    While it trains, loss curve and newest checkpoint lie in `OUT.training`, from which `resume` goes on after an
    interruption; the other options must be those of the first call. A finished run removes that folder.

    Args:
        student: folder that prune, linearize or fuse has saved.
        out: folder of the new model, not there yet; it has the student's dtype.
        teacher: its original; by default the model that the student was cut from, as its `linscore.json` says.
        text: file, folder or - to train on, from its start again when it is used up.
        dataset: name of a dataset instead.
        steps: updates, each on one batch.
        batch_size: sequences in a batch.
        seq_len: tokens of a sequence; by default the context, 512 at most.
        learning_rate: its peak; by default 1e-3 for replacements and 3e-4 for all weights.
        train: "replacements", only what stands for missing blocks, or "all".
        hidden: weight of the states behind what was replaced, see `linscore.distillation.losses`.
        kl: weight of the predictions' divergence.
        lm: weight of the next token.
        save_every: steps between checkpoints.
        resume: go on with an interrupted run.
        dtype: the teacher's; the student is trained in float32.
        device: of both models.

    Raises:
        LinscoreError: for any input that cannot be used, or when `out` exists; what was there stays as it was.
    """
    record = Record.load(student)
    asked = Settings(
        student=student,
        teacher=teacher or record.model,
        text=text,
        dataset=dataset,
        steps=steps,
        batch_size=batch_size,
        seq_len=seq_len,
        learning_rate=_peak(learning_rate, train),
        train=train,
        hidden=hidden,
        kl=kl,
        lm=lm,
        dtype=dtype,
    )
    _check(asked, save_every)
    goal = _goal(record, asked)
    training = Path(f"{Path(out)}.training")  # of a Path: OUT may end with a slash
    before = asked.resumed(training) if resume else None
    if before is None and training.exists():
        raise LinscoreError(f"{training} holds a run that was interrupted: give --resume, or remove it to start again")
    with new_folder(out) as folder:
        loaded = _load(asked, record, device)
        with StepProgress("distilling", steps) as progress:

            def advance(loss: DistilLoss) -> None:
                progress.advance(loss.step, loss.loss, loss.tokens)

            run = partial(distil, save_every=save_every, resume=resume, progress=advance)
            record = _train(folder, training, asked, record, goal, *loaded, before, run)
    shutil.rmtree(training)
    return Distilled(Path(out), record)


def _train(
    folder: Path,
    training: Path,
    asked: Settings,
    record: Record,
    goal: _Goal,
    ours: Pretrained,
    theirs: Pretrained,
    before: Losses | None,
    run: Callable[..., list[DistilLoss]],
) -> Record:
    """Train, measure before and after it, and save what came of it to `folder`; the new record."""
    length = asked.seq_len if asked.seq_len is not None else min(ours.context or LONGEST, LONGEST)
    read, first = _reader(asked, ours, length)
    losses = partial(measure, ours.model, theirs.model, first, goal.pairs, goal.weights)
    before = before or losses()
    with kept_if_begun(training, asked, before):
        curve = run(
            ours.model,
            theirs.model,
            read,
            pairs=goal.pairs,
            **asdict(goal.weights),
            parameters=goal.parameters,
            steps=asked.steps,
            learning_rate=asked.learning_rate,
            folder=training,
        )
        about: dict[str, Any] = {"seq_len": length, "trained_parameters": _count(ours.model, goal.parameters)}
        about |= {"tokens": sum(loss.tokens for loss in curve), "before": before, "after": losses()}
        record = replace(record, distilled=_described(asked) | about)
        _save(folder, ours, record, curve)
    return record


def _peak(learning_rate: float | None, train: str) -> float:
    if train not in LEARNING_RATES:
        raise LinscoreError(f"--train {train!r} is unknown: choose {' or '.join(LEARNING_RATES)}")
    return LEARNING_RATES[train] if learning_rate is None else learning_rate


def _check(asked: Settings, save_every: int) -> None:
    """What can be found out before any model is loaded."""
    counts = (("steps", asked.steps, 1), ("batch-size", asked.batch_size, 1), ("save-every", save_every, 1))
    for option, value, least in (*counts, ("seq-len", 2 if asked.seq_len is None else asked.seq_len, 2)):
        if value < least:
            raise LinscoreError(f"--{option} is {value}: give {least} or more")
    if not (math.isfinite(asked.learning_rate) and asked.learning_rate > 0):
        raise LinscoreError(f"--learning-rate is {asked.learning_rate}: give a number above 0")
    if asked.text is None and asked.dataset is None:
        raise LinscoreError("there is no text to train on: give --text PATH or --dataset NAME")
    Text(asked.text, asked.dataset).check()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise LinscoreError("linscore distil runs in one process: call linscore.distil from several")


@dataclass(frozen=True)
class _Goal:
    """What is trained, and on which losses."""

    parameters: list[str] | None  # names; None: everything
    pairs: dict[int, int]  # block of the student to the block of the teacher whose output is to be met
    weights: Weights


def _goal(record: Record, asked: Settings) -> _Goal:
    pairs = {one.block: one.stands_for for one in record.replacements if one.block is not None}
    return _Goal(_parameters(record, asked.train), *wanted(pairs, asked.hidden, asked.kl, asked.lm))


def _parameters(record: Record, train: str) -> list[str] | None:
    """The names of what is trained; None: everything."""
    if train == "all":
        return None
    names = sorted({name for replacement in record.replacements for name in replacement.parameters})
    if not names:
        raise LinscoreError("nothing stands for the dropped blocks that could be trained alone: give --train all")
    return names


def _load(asked: Settings, record: Record, device: str) -> tuple[Pretrained, Pretrained]:
    """Both models; the student in its own dtype, which it is to be saved in."""
    student, teacher = asked.student, asked.teacher
    ours, theirs = load_pretrained(student, device=device), load_pretrained(teacher, dtype=asked.dtype, device=device)
    if ours.tokenizer.get_vocab() != theirs.tokenizer.get_vocab():
        raise LinscoreError(f"{student} and {teacher} have different vocabularies: give the student's own --teacher")
    depth = len(find_decoder(theirs.model).blocks)
    if depth != record.depth_before:
        raise LinscoreError(
            f"{teacher} has {depth} blocks, and {student} was cut from a model of {record.depth_before}: give that one "
            "as --teacher"
        )
    return ours, theirs


def _reader(asked: Settings, ours: Pretrained, length: int) -> tuple[Callable[[], Iterable[Batch]], list[Batch]]:
    """A function that gives the batches from the start, each time, and the first of them, which are measured."""
    source = Text(asked.text, asked.dataset, tokens=asked.steps * asked.batch_size * length)
    read = partial(source.batches, ours, folds=1, seq_len=length, batch_size=asked.batch_size)
    if asked.text == "-":  # can be read only once
        held: list[Batch] = list(read())
        return lambda: held, held[:MEASURED]
    return read, list(islice(read(), MEASURED))


def _described(asked: Settings) -> dict[str, Any]:
    """What the record says about the options, by the names that they were given."""
    settings = {key: value for key, value in asdict(asked).items() if key not in ("student", "dataset")}
    return settings | {"text": asked.text or asked.dataset}


def _count(model: nn.Module, parameters: list[str] | None) -> int:
    """How many numbers are trained."""
    named = model.named_parameters()
    return sum(parameter.numel() for name, parameter in named if parameters is None or name in parameters)


def _save(folder: Path, ours: Pretrained, record: Record, curve: list[DistilLoss]) -> None:
    """The model with its record, the losses and their picture."""
    if ours.stored is torch.float16:  # which a CPU has loaded as float32
        ours.model.half()
    save_checkpoint(folder, ours.model, ours.tokenizer, record)
    (folder / CURVE).write_text("".join(loss.line() for loss in curve), encoding="utf-8")
    plot_losses(curve, folder / PLOT)
