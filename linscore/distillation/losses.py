"""What a cut model is trained on: its states and predictions beside those of the original, on the same real tokens.

    total  = hidden · Σ_pairs H + kl · KL + lm · CE
    H      = Σ_t ‖h'_t − h_t‖² / Σ_t ‖h_t − h̄‖²     h', h: what leaves a block of the student, of the teacher
    KL     = mean_t Σ_v p_t(v) (log p_t(v) − log p'_t(v))         p', p: predictions of the student, of the teacher
    CE     = − mean_t log p'_t(token t + 1)

H is the layer-wise MSE of the paper (section 5) over the variance of the teacher's states in the batch: the share of
that variance which the student misses, without a unit, so that blocks of unlike size count alike. Padding counts
nowhere, all sums are float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from linscore.decoder.find import Decoder
from linscore.decoder.padding import padding_form
from linscore.decoder.run import run, watch
from linscore.decoder.states import BlockStates
from linscore.errors import LinscoreError
from linscore.machine.device import copied
from linscore.text.batch import Batch, read_batch

__all__ = ["Parts", "Seen", "Student", "Weights", "divergence", "look", "next_token_loss", "state_error"]


@dataclass(frozen=True)
class Weights:
    """How much each loss counts; a loss of weight 0 is not computed."""

    hidden: float = 1.0
    kl: float = 0.0
    lm: float = 0.0


class Parts(NamedTuple):
    """The losses of one batch, unweighted, float32 scalars; None: not computed."""

    hidden: Tensor | None  # sum over the pairs
    kl: Tensor | None
    lm: Tensor | None


@dataclass
class Seen:
    """What a model was given, and what came of it.

    Attributes:
        input_ids: `[B, T]`.
        real: `[B, T]` bool, False for padding.
        position_ids: `[B, T]`, where the batch says them.
        states: what left some blocks, `[B, T, d]` each.
        logits: `[B, T, vocabulary]`, where the head has run.
        inputs: what the model was called with, by name.
    """

    input_ids: Tensor
    real: Tensor
    position_ids: Tensor | None = None
    states: dict[int, Tensor] = field(default_factory=dict)
    logits: Tensor | None = None
    inputs: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(batch: Batch) -> Seen:
        """A batch that no model has seen yet.

        Raises:
            LinscoreError: when it holds no token ids `[B, T]`, or padding alone.
        """
        tokens = read_batch(batch)
        if not tokens.real.any():
            raise LinscoreError("a batch is all padding: leave it out")
        return Seen(tokens.input_ids, tokens.real, tokens.position_ids)


def state_error(student: Tensor, teacher: Tensor) -> Tensor:
    """H of rows `[n, d]` of any dtypes: a float32 scalar."""
    student, teacher = student.float(), teacher.float()
    spread = (teacher - teacher.mean(0)).square().sum()
    return (student - teacher).square().sum() / spread.clamp_min(torch.finfo(torch.float32).tiny)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) in nats per row of logits `[n, vocabulary]`: a float32 scalar."""
    ours, theirs = (logits.float().log_softmax(-1) for logits in (student, teacher))
    return functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def next_token_loss(logits: Tensor, input_ids: Tensor, real: Tensor) -> Tensor:
    """Cross entropy in nats of the tokens whose predecessor is real too: `[B, T, v]`, `[B, T]`, `[B, T]` bool."""
    both = real[:, 1:] & real[:, :-1]
    return functional.cross_entropy(logits[:, :-1][both].float(), input_ids[:, 1:][both])


def look(decoder: Decoder, seen: Seen, blocks: list[int], *, head: bool) -> None:
    """Run a teacher on `seen.input_ids`, without gradients and in evaluation mode; fills in the rest of `seen`."""
    called = replace(decoder, backbone=decoder.model) if head else decoder
    if not seen.real.all():
        padding_form(called, seen.real)  # tried before anyone watches

    def keep_inputs(_module: nn.Module, _args: Any, inputs: dict[str, Any]) -> None:
        seen.inputs = dict(inputs)

    def keep_logits(_module: nn.Module, _args: Any, output: Any) -> None:
        seen.logits = output.logits

    with ExitStack() as hooks:
        hooks.callback(called.backbone.register_forward_pre_hook(keep_inputs, with_kwargs=True).remove)
        if head:
            hooks.callback(called.backbone.register_forward_hook(keep_logits).remove)
        hooks.enter_context(watch(decoder, lambda index, found: seen.states.__setitem__(index, found.y), blocks))
        run(called, seen.input_ids, seen.real, seen.position_ids)


class Student(nn.Module):
    """The student and its losses in one forward, which is what accelerate prepares.

    Args:
        student: is called as the teacher was: masks and positions are the same by construction.
        pairs: block of the student to the block of the teacher whose output is to be met.
        weights: of the losses.
    """

    def __init__(self, student: Decoder, pairs: Mapping[int, int], weights: Weights) -> None:
        super().__init__()
        self.student, self.pairs, self.weights = student.model, dict(pairs), weights
        self._decoder = student

    @property
    def head(self) -> bool:
        """Whether any loss needs predictions."""
        return self.weights.kl > 0 or self.weights.lm > 0

    def see(self, teacher: Decoder, batch: Batch) -> Seen:
        """What `teacher` makes of a batch, as far as these losses need it."""
        seen = Seen.of(batch)
        look(teacher, seen, sorted(set(self.pairs.values())), head=self.weights.kl > 0)
        return seen

    def forward(self, teacher: Seen) -> tuple[Tensor, Parts]:
        """The weighted sum, with gradients, and its parts, without.

        Raises:
            LinscoreError: when no parameter that is trained has a say in the states.
        """
        states, logits = self._run(teacher.inputs)
        hidden = self._hidden(states, teacher) if self.weights.hidden else None
        kl = lm = None
        if logits is not None:
            real, input_ids = (tensor.to(logits.device) for tensor in (teacher.real, teacher.input_ids))
            if self.weights.kl and teacher.logits is not None:
                kl = divergence(logits[real], teacher.logits.to(logits.device)[real])
            lm = next_token_loss(logits, input_ids, real) if self.weights.lm else None
        parts, factors = Parts(hidden, kl, lm), (self.weights.hidden, self.weights.kl, self.weights.lm)
        total = sum(weight * part for weight, part in zip(factors, parts, strict=True) if part is not None)
        return torch.as_tensor(total), Parts(*(None if part is None else part.detach() for part in parts))

    def _run(self, inputs: dict[str, Any]) -> tuple[dict[int, Tensor], Tensor | None]:
        decoder, states = self._decoder, {}
        device = next(decoder.model.parameters()).device
        moved = {key: copied(value, device) if isinstance(value, Tensor) else value for key, value in inputs.items()}

        def keep(index: int, found: BlockStates) -> None:
            states[index] = found.y

        with watch(decoder, keep, self.pairs):
            output = (decoder.model if self.head else decoder.backbone)(**moved)
        return states, output.logits if self.head else None

    def _hidden(self, states: dict[int, Tensor], teacher: Seen) -> Tensor:
        if torch.is_grad_enabled() and not any(state.requires_grad for state in states.values()):
            raise LinscoreError(
                f"what leaves blocks {sorted(states)} does not depend on the trained parameters: train others, or give "
                "hidden=0 (with reentrant gradient checkpointing: use_reentrant=False)"
            )
        errors = []
        for ours, theirs in self.pairs.items():
            state, real = states[ours], teacher.real.to(states[ours].device)
            errors.append(state_error(state[real], teacher.states[theirs].to(state.device)[real]))
        return torch.stack([error.to(errors[0].device) for error in errors]).sum()
