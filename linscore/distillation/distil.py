"""Distil a cut model: train what stands for the missing blocks until it does what the original did.

Checkpoints, several processes and mixed precision come from accelerate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from linscore.decoder.find import Decoder
from linscore.distillation.folder import DistilFolder, DistilLoss, newest_checkpoint
from linscore.distillation.losses import Parts, Student
from linscore.distillation.pair import pair_up, wanted
from linscore.distillation.parameters import in_float32, training_only
from linscore.errors import LinscoreError, above_zero, at_least
from linscore.machine.extras import need
from linscore.machine.processes import check_joined, on_cpu
from linscore.text.batch import Batch

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["DistilLoss", "Distillation", "distil", "new_accelerator"]

CLIP = 1.0  # largest norm of a step's gradient
LONGEST_WARMUP = 100  # steps

Batches = Iterable[Batch] | Callable[[], Iterable[Batch]]


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How a student is trained: AdamW, gradients clipped to norm 1, a linear warm-up and a cosine down to 0.

    16-bit parameters are trained in float32 and rounded once, at the end: the updates of late steps would be lost.

    Attributes:
        learning_rate: its peak.
        hidden: weight of the states of the pairs; without pairs there is no such loss.
        kl: weight of the Kullback–Leibler divergence from the teacher's predictions. Without it and `lm` no head runs.
        lm: weight of the cross entropy of the next token.
        warmup: steps until the peak; by default a tenth of all, 100 at most.
        weight_decay: of AdamW.
    """

    learning_rate: float = 1e-3
    hidden: float = 1.0
    kl: float = 1.0
    lm: float = 0.0
    warmup: int | None = None
    weight_decay: float = 0.0

    def rate(self, step: int, steps: int) -> float:
        """Of step 1 to `steps`: a line up to the peak, then half a cosine that would reach 0 one step after the last.

        Raises:
            LinscoreError: for a peak or a warm-up that cannot be.
        """
        warmup = min(steps // 10, LONGEST_WARMUP) if self.warmup is None else self.warmup
        if not 0 <= warmup <= steps:
            raise LinscoreError(f"`warmup` is {warmup}: give 0 to {steps}, the number of steps")
        above_zero("learning_rate", self.learning_rate)
        if step <= warmup:
            return self.learning_rate * step / warmup
        return self.learning_rate / 2 * (1 + math.cos(math.pi * (step - warmup - 1) / (steps - warmup)))


def distil(
    student: nn.Module,
    teacher: nn.Module,
    batches: Batches,
    *,
    pairs: Mapping[int, int],
    steps: int,
    parameters: Collection[str] | None = None,
    accelerator: Accelerator | None = None,
    folder: str | Path | None = None,
    save_every: int | None = None,
    resume: bool = False,
    progress: Callable[[DistilLoss], None] | None = None,
    **how: Any,
) -> list[DistilLoss]:
    """Train `student` in place towards `teacher`; returns the losses of every step, those before a resumption included.

    Args:
        student: stays in the mode it is in, a loaded model without dropout; checkpointing needs `student.train()`.
        teacher: stays as it is. Both read the same token ids.
        batches: as `score` takes them, or a function that gives them anew; taken in their order, again and again, and
            shared out in turn to several processes.
        pairs: block of the student to the block of the teacher whose output is to be met.
        steps: updates in all, those before a resumption included.
        parameters: the names of those that are trained; all by default.
        accelerator: a fresh one; models stay where they are. Its `mixed_precision` is that of the products.
        folder: for the loss curve `losses.jsonl` and the newest checkpoint, `step_N`.
        save_every: steps between checkpoints; with a folder there is one at the end in any case.
        resume: go on from the newest checkpoint in `folder`; all else must be given as the first time.
        progress: called after each step.
        how: fields of `Distillation`: learning_rate, hidden, kl, lm, warmup, weight_decay.

    Raises:
        LinscoreError: for arguments that do not fit, or a loss that is not finite; the steps before it stay done.

    Examples:
        >>> student = linscore.drop(model, [3])
        >>> losses = linscore.distil(student, model, batches, pairs={2: 3}, steps=2)
        >>> len(losses)
        2
    """
    settings = Distillation(**how)
    _check(steps, settings, folder, save_every, resume)
    pairs, weights = wanted(pairs, settings.hidden, settings.kl, settings.lm)
    losses, theirs = pair_up(student, teacher, pairs, weights)
    accelerator = accelerator or new_accelerator()
    with in_float32(student), training_only(student, parameters) as trained:
        trainer = _Trainer(losses, theirs, trained, settings, accelerator)
        place = None if folder is None else DistilFolder(folder, accelerator, losses)
        curve = [] if place is None else place.start(resume=resume)
        for loss in trainer.train(_share(batches, accelerator, skip=len(curve)), len(curve), steps, place, save_every):
            curve.append(loss)
            if progress is not None:
                progress(loss)
    return curve


def new_accelerator(device: str = "auto") -> Accelerator:
    """An accelerator that leaves models where they are, and whose processes may leave parameters without gradient."""
    need("train", "distilling", "accelerate")
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # behind the last pair nothing gets one
    accelerator = Accelerator(device_placement=False, cpu=on_cpu(device), kwargs_handlers=[unused])
    check_joined(accelerator.num_processes)
    return accelerator


class _Trainer:
    """One update after another."""

    def __init__(
        self,
        student: Student,
        teacher: Decoder,
        trained: list[nn.Parameter],
        settings: Distillation,
        accelerator: Accelerator,
    ) -> None:
        self._student, self._teacher, self._trained, self._accelerator = student, teacher, trained, accelerator
        self._settings = settings
        optimizer = torch.optim.AdamW(trained, weight_decay=settings.weight_decay)
        self._module, self._optimizer = accelerator.prepare(student, optimizer)

    def train(
        self, batches: Iterator[Batch], done: int, steps: int, place: DistilFolder | None, save_every: int | None
    ) -> Iterator[DistilLoss]:
        """The losses of the steps that are left, each when it is trained, written down and perhaps saved."""
        for step in range(done + 1, steps + 1):
            loss = self.step(step, next(batches), self._settings.rate(step, steps), place)
            if place is not None:
                place.append(loss)
                if step == steps or (save_every is not None and step % save_every == 0):
                    place.save(step)
            yield loss

    def step(self, step: int, batch: Batch, rate: float, place: DistilFolder | None) -> DistilLoss:
        seen = self._student.see(self._teacher, batch)
        total, parts = self._module(seen)
        self._accelerator.backward(total)
        norm = self._accelerator.clip_grad_norm_(self._trained, CLIP)
        loss = self._mean(step, total.detach(), parts, rate, int(seen.real.sum()))
        # A scaler of float16 gradients passes over infinite ones by itself.
        if not math.isfinite(loss.loss) or (self._accelerator.scaler is None and not norm.isfinite()):
            raise LinscoreError(_diverged(loss, place))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss

    def _mean(self, step: int, total: Tensor, parts: Parts, rate: float, tokens: int) -> DistilLoss:
        """The losses' means over the processes, so that all of them see the same."""
        figures = [total, *(part for part in parts if part is not None), torch.tensor(tokens)]
        summed = self._accelerator.reduce(torch.stack([figure.to(total.device).double() for figure in figures]))
        *losses, tokens = summed.tolist()
        means = iter(loss / self._accelerator.num_processes for loss in losses)
        loss, (hidden, kl, lm) = next(means), (None if part is None else next(means) for part in parts)
        return DistilLoss(step, loss, hidden, kl, lm, rate, int(tokens))


def _diverged(loss: DistilLoss, place: DistilFolder | None) -> str:
    last = newest_checkpoint(place.path) if place is not None else None
    left = f"the last good checkpoint is {last}" if last else "no checkpoint was saved before"
    what = f"the loss is {loss.loss}" if not math.isfinite(loss.loss) else "the gradient is not finite"
    return f"{what} at step {loss.step}: lower the learning rate ({left})"


def _share(batches: Batches, accelerator: Accelerator, *, skip: int) -> Iterator[Batch]:
    """This process's batches, without those of the first `skip` steps."""
    count = accelerator.num_processes
    return islice(_endless(batches), accelerator.process_index + skip * count, None, count)


def _endless(batches: Batches) -> Iterator[Batch]:
    taken = 0
    while True:
        before = taken
        for batch in batches() if callable(batches) else batches:
            taken += 1
            yield batch
        if taken == before:
            what = (
                "there is no batch" if not taken else f"there are only {taken} batches, and they cannot be read again"
            )
            raise LinscoreError(f"{what}: give a list, or a function that gives an iterable")


def _check(steps: int, settings: Distillation, folder: str | Path | None, save_every: int | None, resume: bool) -> None:
    at_least("steps", steps, 1)
    at_least("save_every", save_every, 1)
    settings.rate(1, steps)
    if folder is None and (resume or save_every is not None):
        raise LinscoreError("checkpoints need a place: give a folder")
