"""The job of `linscore distil`: from a cut model and a text to a new model that does again what the original did."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linscore.distillation.folder import CURVE
from linscore.distillation.plot import plot_losses
from linscore.distillation.progress import DistilProgress
from linscore.distillation.training import DistilLoss, distil
from linscore.errors import Interrupted, LinscoreError
from linscore.pretrained import Pretrained, load_pretrained
from linscore.surgery.checkpoint import new_folder, save_checkpoint
from linscore.surgery.record import Record
from linscore.texts import Text

__all__ = ["Distilled", "run_distil"]

LEARNING_RATES = {"replacements": 1e-3, "all": 3e-4}  # best of three each on the built-in decoder
LONGEST = 512  # tokens of a sequence
PLOT = "losses.png"
SETTINGS = "settings.json"


@dataclass(frozen=True)
class Distilled:
    """What `linscore distil` did."""

    out: Path  # the new model; beside its weights `losses.jsonl` and `losses.png`
    record: Record  # of the student, with what training did as `distilled`
    first: DistilLoss  # of the first batch, before any update
    last: DistilLoss  # of the last batch, before the last update


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
    _check(train, batch_size, text, dataset)
    learning_rate = learning_rate or LEARNING_RATES[train]
    asked = {key: value for key, value in locals().items() if key not in ("out", "save_every", "resume", "device")}
    record = Record.load(student)
    parameters = _parameters(record, train)
    teacher = teacher or record.model
    training = Path(f"{out}.training")
    _check_resumption(training, asked, resume)
    with new_folder(out) as folder:
        ours, theirs = _load(student, teacher, dtype, device)
        length = seq_len if seq_len is not None else min(ours.context or LONGEST, LONGEST)
        source = Text(text, dataset, tokens=max(1, steps) * batch_size * length)
        read = _reader(source, ours, seq_len=length, batch_size=batch_size)
        with _kept_if_begun(training, asked), DistilProgress(steps) as progress:
            curve = distil(
                ours.model,
                theirs.model,
                read,
                pairs={r.block: r.stands_for for r in record.replacements if r.block is not None},
                steps=steps,
                parameters=parameters,
                learning_rate=learning_rate,
                hidden=hidden,
                kl=kl,
                lm=lm,
                folder=training,
                save_every=save_every,
                resume=resume,
                progress=progress.advance,
            )
            done = _described(curve, asked, teacher, text or dataset, length, _count(ours.model, parameters))
            record = replace(record, distilled=done)
            _save(folder, ours, record, curve)
    shutil.rmtree(training)
    return Distilled(Path(out), record, curve[0], curve[-1])


def _check(train: str, batch_size: int, text: str | None, dataset: str | None) -> None:
    if train not in LEARNING_RATES:
        raise LinscoreError(f"--train {train!r} is unknown: choose {' or '.join(LEARNING_RATES)}")
    if batch_size < 1:
        raise LinscoreError(f"--batch-size is {batch_size}: give 1 or more")
    if text is None and dataset is None:
        raise LinscoreError("there is no text to train on: give --text PATH or --dataset NAME")
    Text(text, dataset).check()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise LinscoreError("linscore distil runs in one process: call linscore.distil from several")


def _parameters(record: Record, train: str) -> list[str] | None:
    """The names of what is trained; None: everything."""
    if train == "all":
        return None
    names = sorted({name for replacement in record.replacements for name in replacement.parameters})
    if not names:
        raise LinscoreError("nothing stands for the dropped blocks that could be trained alone: give --train all")
    return names


def _check_resumption(training: Path, asked: dict[str, Any], resume: bool) -> None:
    """Makes sure that a run is there to go on with if, and only if, that is asked, and that it is the same run."""
    if training.exists() and not resume:
        raise LinscoreError(f"{training} holds a run that was interrupted: give --resume, or remove it to start again")
    if not resume:
        return
    if not (training / SETTINGS).is_file():
        raise LinscoreError(f"{training} holds no run to go on with: leave out --resume")
    try:
        begun = json.loads((training / SETTINGS).read_text(encoding="utf-8"))
    except ValueError as error:
        raise LinscoreError(f"{training / SETTINGS} is damaged: remove {training} and start again") from error
    other = next((key for key in asked if begun.get(key) != asked[key]), None)
    if other is not None:
        option = f"--{other.replace('_', '-')}" if other != "student" else "the student"
        raise LinscoreError(
            f"{training} was begun with {option} {begun.get(other)}, not {asked[other]}: give the same, or remove it"
        )


def _load(student: str, teacher: str, dtype: str, device: str) -> tuple[Pretrained, Pretrained]:
    """Both models; the student in its own dtype, which it is to be saved in."""
    ours, theirs = load_pretrained(student, device=device), load_pretrained(teacher, dtype=dtype, device=device)
    if ours.tokenizer.get_vocab() != theirs.tokenizer.get_vocab():
        raise LinscoreError(f"{student} and {teacher} have different vocabularies: give the student's own --teacher")
    return ours, theirs


def _reader(source: Text, loaded: Pretrained, **shape: int) -> Callable[[], Iterable[dict[str, Tensor]]]:
    """A function that gives the batches from the start, each time; the first one is tried here and now."""
    if source.path == "-":  # can be read only once
        held = list(source.batches(loaded, folds=1, **shape))
        return lambda: held
    next(source.batches(loaded, folds=1, **shape))
    return lambda: source.batches(loaded, folds=1, **shape)


@contextmanager
def _kept_if_begun(training: Path, asked: dict[str, Any]) -> Iterator[None]:
    """The folder of a run; after an error it is left only where there is a checkpoint to go on from."""
    training.mkdir(parents=True, exist_ok=True)
    (training / SETTINGS).write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")
    try:
        yield
    except BaseException as error:
        if not list(training.glob("step_*")):
            shutil.rmtree(training)
        elif isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"interrupted: go on with --resume from the last checkpoint in {training}") from error
        raise


def _described(
    curve: list[DistilLoss],
    asked: dict[str, Any],
    teacher: str,
    text: str | None,
    seq_len: int,
    trained: int,
) -> dict[str, Any]:
    """What the record says about the training; losses are means over the first and the last tenth of the steps."""
    tenth = max(1, len(curve) // 10)
    settings = {key: value for key, value in asked.items() if key not in ("student", "dataset")}
    return {
        **settings,
        "teacher": teacher,
        "text": text,
        "seq_len": seq_len,
        "tokens": sum(loss.tokens for loss in curve),
        "trained_parameters": trained,
        "first": _mean(curve[:tenth]),
        "last": _mean(curve[-tenth:]),
    }


def _mean(losses: list[DistilLoss]) -> dict[str, float | None]:
    rows = [asdict(loss) for loss in losses]
    names = ("loss", "hidden", "kl", "lm")
    return {n: None if rows[0][n] is None else sum(row[n] for row in rows) / len(rows) for n in names}


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
