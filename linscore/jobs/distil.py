"""The job of `linscore distil`: from a cut model and a text to a new model that does again what the original did."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from linscore.distillation.distil import DistilLoss, distil, new_accelerator
from linscore.distillation.folder import CURVE, newest_checkpoint
from linscore.distillation.losses import Weights
from linscore.distillation.pair import measure, wanted
from linscore.distillation.plot import plot_losses
from linscore.distillation.settings import Begun, Settings, run_folder
from linscore.errors import LinscoreError, above_zero, at_least, one_of
from linscore.files.curve import write_curve
from linscore.files.run_folder import RunFolder
from linscore.files.whole import new_folder
from linscore.jobs.together import share
from linscore.machine.extras import need
from linscore.machine.processes import Processes
from linscore.models.load import Pretrained, load_pretrained
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.options.training import DISTIL_PLACE, DISTIL_TEXT, DISTIL_TRAINING, DistilOptions, TrainingOptions
from linscore.pictures import file_of
from linscore.progress import StepProgress
from linscore.surgery.record import Record
from linscore.surgery.save import save_checkpoint
from linscore.text.batch import Batch
from linscore.text.source import Source, Text, within_context

__all__ = ["Distilled", "run_distil"]

LEARNING_RATES = {"replacements": 1e-3, "all": 3e-4}  # best of three each on the built-in decoder
LONGEST = 512  # tokens of a sequence
PLOT = "losses"
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
    text: TextOptions = DISTIL_TEXT,
    towards: DistilOptions | None = None,
    training: TrainingOptions = DISTIL_TRAINING,
    place: PlaceOptions = DISTIL_PLACE,
    resume: bool = False,
) -> Distilled | None:
    """Train a cut model, saved by prune, linearize or fuse, towards its original and save it to `out`.

    The record's `distilled` holds these options and, as "before" and "after", the student's losses without and with all
    updates on the same batches, the first four of the text. They are of the training text: what was won on other text,
    `linscore evaluate` says. The new model has the student's dtype; it is trained in float32.

    While it trains, loss curve and newest checkpoint lie in `OUT.training`, from which `resume` goes on after an
    interruption; the other options must be those of the first call. A finished run removes that folder. Several
    processes (torchrun) share each step's batch; those that are not the first return None.

    Raises:
        LinscoreError: for any input that cannot be used, or when `out` exists; what was there stays as it was.
    """
    need("train", "distilling", "accelerate", "matplotlib")
    record, towards = Record.load(student), towards or DistilOptions()
    asked = _settings(student, towards.teacher or record.model, text, towards, training, place)
    steps, save_every = asked.steps, training.save_every or asked.steps
    _check(asked, training.save_every)
    goal = _goal(record, asked)
    processes = share(place, Source(asked.text, asked.dataset))
    processes.part_of(asked.batch_size)
    with run_folder(Path(f"{Path(out)}.training"), asked) as begun:  # of a Path: OUT may end with a slash
        before = begun.resume(Begun).before if resume and processes.first else None
        if before is None and processes.first:
            begun.check_new()
        with new_folder(out) if processes.first else nullcontext() as folder:
            loaded = _load(asked, record, place)
            with StepProgress("distilling", steps) as progress:

                def advance(loss: DistilLoss) -> None:
                    progress.advance(loss.step, loss.loss, loss.tokens)

                how: dict[str, Any] = {"save_every": save_every, "resume": resume, "progress": advance}
                run = partial(distil, accelerator=new_accelerator(place.device), **how)
                trained = _train(folder, begun, asked, record, goal, *loaded, before, run, processes)
            if folder is None:
                return None
            trained.save(folder, becomes=out)
        shutil.rmtree(begun.path)
    return Distilled(Path(out), trained)


def _train(
    folder: Path | None,
    place: RunFolder,
    asked: Settings,
    record: Record,
    goal: _Goal,
    ours: Pretrained,
    theirs: Pretrained,
    before: Losses | None,
    run: Callable[..., list[DistilLoss]],
    processes: Processes,
) -> Record:
    """Train, measure before and after it, and save what came of it to `folder`; the new record.

    The first process alone measures and saves, which the others, without a folder, do not wait for.
    """
    length = within_context("seq_len", asked.seq_len, ours.context, LONGEST)
    read, first = _reader(asked, ours, length, processes)
    losses = partial(measure, ours.model, theirs.model, first, goal.pairs, goal.weights)
    if before is None and folder is not None:
        before = losses()
        place.begin(before=before)
    with place.kept(lambda: newest_checkpoint(place.path)):
        curve = run(
            ours.model,
            theirs.model,
            read,
            pairs=goal.pairs,
            **asdict(goal.weights),
            parameters=goal.parameters,
            steps=asked.steps,
            learning_rate=asked.learning_rate,
            folder=place.path,
        )
        if folder is None:
            return record
        about: dict[str, Any] = {"seq_len": length, "trained_parameters": _count(ours.model, goal.parameters)}
        about |= {"tokens": sum(loss.tokens for loss in curve), "before": before, "after": losses()}
        record = replace(record, distilled=_described(asked) | about)
        _save(folder, ours, curve)
    return record


def _settings(
    student: str,
    teacher: str,
    text: TextOptions,
    towards: DistilOptions,
    training: TrainingOptions,
    place: PlaceOptions,
) -> Settings:
    """What makes a run the run it is."""
    one_of("train", towards.train, LEARNING_RATES)
    return Settings(
        student=student,
        teacher=teacher,
        text=text.text,
        dataset=text.dataset,
        steps=training.steps or 0,
        batch_size=text.batch_size or 0,
        seq_len=text.seq_len,
        learning_rate=LEARNING_RATES[towards.train] if training.learning_rate is None else training.learning_rate,
        train=towards.train,
        hidden=towards.hidden,
        kl=towards.kl,
        lm=towards.lm,
        dtype=place.dtype,
    )


def _check(asked: Settings, save_every: int | None) -> None:
    """What can be found out before any model is loaded."""
    for what, value in {"steps": asked.steps, "batch_size": asked.batch_size, "save_every": save_every}.items():
        at_least(what, value, 1)
    at_least("seq_len", asked.seq_len, 2)
    above_zero("learning_rate", asked.learning_rate)
    if asked.text is None and asked.dataset is None:
        raise LinscoreError("there is no text to train on: give `text` or `dataset`")
    Source(asked.text, asked.dataset).check()


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
        raise LinscoreError("nothing stands for the dropped blocks that could be trained alone: give `train=all`")
    return names


def _load(asked: Settings, record: Record, place: PlaceOptions) -> tuple[Pretrained, Pretrained]:
    """Both models; the student in its own dtype, which it is to be saved in."""
    student, teacher = asked.student, asked.teacher
    ours, theirs = (
        load_pretrained(name, dtype=dtype, device=place.device, trust_remote_code=place.trust_remote_code)
        for name, dtype in ((student, "auto"), (teacher, asked.dtype))
    )
    if ours.tokenizer.get_vocab() != theirs.tokenizer.get_vocab():
        raise LinscoreError(f"{student} and {teacher} have different vocabularies: give the student's own `teacher`")
    depth = len(theirs.decoder.blocks)
    if depth != record.depth_before:
        raise LinscoreError(
            f"{teacher} has {depth} blocks, and {student} was cut from a model of {record.depth_before}: give that one "
            "as `teacher`"
        )
    return ours, theirs


def _reader(
    asked: Settings, ours: Pretrained, length: int, processes: Processes
) -> tuple[Callable[[], Iterable[Batch]], list[Batch]]:
    """A function that gives the batches from the start, each time, and the first of them, which are measured.

    For several processes each batch comes in as many parts.
    """
    options = TextOptions(
        text=asked.text,
        dataset=asked.dataset,
        tokens=asked.steps * asked.batch_size * length,
        seq_len=length,
        batch_size=asked.batch_size,
    )
    how: dict[str, Any] = {"folds": 1}
    read, parts = (
        partial(Text(replace(options, batch_size=size)).batches, ours.tokenizer, ours.context, ours.model.device, **how)
        for size in (asked.batch_size, processes.part_of(asked.batch_size))
    )
    if asked.text == "-":  # can be read only once
        held: list[Batch] = list(read())
        return lambda: held, held[:MEASURED]
    return parts, list(islice(read(), MEASURED))


def _described(asked: Settings) -> dict[str, Any]:
    """What the record says about the options, by the names that they were given."""
    settings = {key: value for key, value in asdict(asked).items() if key not in ("student", "dataset")}
    return settings | {"text": asked.text or asked.dataset}


def _count(model: nn.Module, parameters: list[str] | None) -> int:
    """How many numbers are trained."""
    named = model.named_parameters()
    return sum(parameter.numel() for name, parameter in named if parameters is None or name in parameters)


def _save(folder: Path, ours: Pretrained, curve: list[DistilLoss]) -> None:
    """The model, the losses and their picture."""
    if ours.stored is torch.float16:  # which a CPU has loaded as float32
        ours.model.half()
    save_checkpoint(folder, ours.model, ours.tokenizer)
    write_curve(folder / CURVE, map(asdict, curve))
    plot_losses(curve, folder / file_of(PLOT))
