"""Distil a cut model: train what stands for the missing blocks until it does what the original did.

Checkpoints, several processes and mixed precision come from accelerate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from linscore.decoder.find import Decoder
from linscore.distillation.folder import DistilFolder, DistilLoss
from linscore.distillation.losses import Parts, Student
from linscore.distillation.pair import pair_up, wanted
from linscore.distillation.parameters import in_float32, training_only
from linscore.errors import LinscoreError
from linscore.scoring.collect import Batch

__all__ = ["DistilLoss", "distil", "new_accelerator"]

CLIP = 1.0  # largest norm of a step's gradient
LONGEST_WARMUP = 100  # steps

Batches = Iterable[Batch] | Callable[[], Iterable[Batch]]


def distil(
    student: nn.Module,
    teacher: nn.Module,
    batches: Batches,
    *,
    pairs: Mapping[int, int],
    steps: int,
    parameters: Collection[str] | None = None,
    learning_rate: float = 1e-3,
    hidden: float = 1.0,
    kl: float = 1.0,
    lm: float = 0.0,
    warmup: int | None = None,
    weight_decay: float = 0.0,
    accelerator: Accelerator | None = None,
    folder: str | Path | None = None,
    save_every: int | None = None,
    resume: bool = False,
    progress: Callable[[DistilLoss], None] | None = None,
) -> list[DistilLoss]:
    """Train `student` in place towards `teacher`; the losses are those of `linscore.distillation.losses`.

    AdamW, with gradients clipped to norm 1, a linear warm-up and a cosine down to 0. Batches are taken in their order,
    from the start again when they are used up, so that a run that was resumed is the run that was not interrupted.

    Parameters of 16 bits are trained in float32 and rounded once, at the end: the updates of a late step would be lost
    in them. For 16-bit products give an accelerator with `mixed_precision`.

    Args:
        student: runs in the mode it is in: a loaded model is in evaluation mode, that is, without dropout; gradient
            checkpointing needs `student.train()`. Modes and flags are afterwards what they were.
        teacher: runs in evaluation mode, and stays as it is. Both read the same token ids.
        batches: token ids `[B, T]` each, or dicts with `input_ids` and, where padded, `attention_mask`, `[B, T]` each;
            can be iterated repeatedly, or is a function that gives an iterable. Each of several processes takes its
            share of them in turn.
        pairs: block of the student to the block of the teacher whose output is to be met.
        steps: updates in all, those before a resumption included.
        parameters: the names of those that are trained; all by default.
        learning_rate: its peak.
        hidden: weight of the states of the pairs; without pairs there is no such loss.
        kl: weight of the Kullback–Leibler divergence from the teacher's predictions. Without it and `lm` no head runs.
        lm: weight of the cross entropy of the next token.
        warmup: steps until the peak; by default a tenth of all, 100 at most.
        weight_decay: of AdamW.
        accelerator: a fresh one, which holds nothing else; models stay where they are, so each of several processes has
            put its own on its device.
        folder: for the loss curve `losses.jsonl` and the newest checkpoint, `step_N`.
        save_every: steps between checkpoints; with a folder there is one at the end in any case.
        resume: go on from the newest checkpoint in `folder`. The student and all else must be given as the first time.
        progress: called after each step.

    Returns:
        The losses of every step, those before a resumption included.

    Raises:
        LinscoreError: for arguments that do not fit each other, or when a loss is no longer finite; the student then
            is what the steps before have made of it.
    """
    warmup = min(steps // 10, LONGEST_WARMUP) if warmup is None else warmup
    _check(steps, learning_rate, warmup, save_every)
    pairs, weights = wanted(pairs, hidden, kl, lm)
    if folder is None and (resume or save_every is not None):
        raise LinscoreError("checkpoints need a place: give a folder")
    losses, theirs = pair_up(student, teacher, pairs, weights)
    accelerator = accelerator or new_accelerator()
    with ExitStack() as stack:
        stack.enter_context(in_float32(student))
        trained = stack.enter_context(training_only(student, parameters))
        trainer = _Trainer(losses, theirs, trained, weight_decay, accelerator)
        place = None if folder is None else DistilFolder(folder, accelerator, losses)
        curve = [] if place is None else place.start(resume=resume)
        stream = _share(batches, accelerator, skip=len(curve))
        for step in range(len(curve) + 1, steps + 1):
            rate = _learning_rate(step, steps, warmup, learning_rate)
            curve.append(trainer.step(step, next(stream), rate, place))
            if place is not None:
                place.append(curve[-1])
                if step == steps or (save_every is not None and step % save_every == 0):
                    place.save(step)
            if progress is not None:
                progress(curve[-1])
    return curve


def new_accelerator() -> Accelerator:
    """An accelerator that leaves models where they are, and whose processes may leave parameters without gradient."""
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # behind the last pair nothing gets one
    return Accelerator(device_placement=False, kwargs_handlers=[unused])


class _Trainer:
    """One update after another."""

    def __init__(
        self,
        student: Student,
        teacher: Decoder,
        trained: list[nn.Parameter],
        weight_decay: float,
        accelerator: Accelerator,
    ) -> None:
        self._student, self._teacher, self._trained, self._accelerator = student, teacher, trained, accelerator
        optimizer = torch.optim.AdamW(trained, weight_decay=weight_decay)
        self._module, self._optimizer = accelerator.prepare(student, optimizer)

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
    last = place.newest if place is not None else None
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


def _learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Of step 1 to `steps`: a line up to the peak, then half a cosine that would reach 0 one step after the last."""
    if step <= warmup:
        return peak * step / warmup
    return peak / 2 * (1 + math.cos(math.pi * (step - warmup - 1) / (steps - warmup)))


def _check(steps: int, learning_rate: float, warmup: int, save_every: int | None) -> None:
    if steps < 1:
        raise LinscoreError(f"steps is {steps}: give 1 or more")
    if save_every is not None and save_every < 1:
        raise LinscoreError(f"save_every is {save_every}: give 1 or more")
    if not 0 <= warmup <= steps:
        raise LinscoreError(f"warmup is {warmup}: give 0 to {steps}, the number of steps")
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise LinscoreError(f"learning_rate is {learning_rate}: give a number above 0")
