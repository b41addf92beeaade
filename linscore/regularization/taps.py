"""The regularizers of the paper (sections 3.2 and 4) between consecutive states of a residual stream, for training.

    loss = Σ_i mean_t [ cosine · (1 − cos(h_i, h_{i−1})) + mse · ‖h_i − h_{i−1}‖² ]        i = 1 … L

`layer_loss` takes all states at once, and its backward returns all their gradients at once: as much memory as the
states. A `tap` is an identity in the residual stream instead: it keeps its state by reference, which the graph holds
anyway, and three floats per token; in backward it adds its own gradient to the one that flows through. The gradient of
the loss reaches every tap along a thread of two floats that runs from tap to tap, so a tap's backward always comes
after the next tap's, from which it takes the next state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from linscore_kernels import layer_distances, layer_gradient
from torch import Tensor
from torch.autograd.function import once_differentiable

from linscore.errors import LinscoreError

__all__ = ["Chain", "Terms", "layer_loss", "tap"]

Reduction = Literal["mean", "sum"]
Remake = Callable[[Tensor], Tensor]  # a state from the one before it
Slot = list[tuple[Tensor | Remake, Tensor]]  # where a tap leaves its state and floats for the tap before it: 0 or 1


class Terms(NamedTuple):
    """What a chain's states are apart: means over tokens and pairs, scalars on the device, without weights."""

    cosine: Tensor  # 1 − cos(h_i, h_{i−1})
    mse: Tensor  # ‖h_i − h_{i−1}‖², summed over features


class Chain:
    """The states of one forward pass, and their loss. A new one for each pass.

    Args:
        mask: `[B, T]`, zero or False for padding, which does not count and may even be NaN; None: all tokens count.
        cosine: weight of the cosine term.
        mse: weight of the squared distance. With both 0 nothing is recorded and the run stays bit for bit as it is.
        tokens: "mean" or "sum" over the tokens that count.
        pairs: "mean" or "sum" over the L pairs.

    Raises:
        LinscoreError: for a weight that is not finite or an unknown reduction.
    """

    def __init__(
        self,
        mask: Tensor | None = None,
        *,
        cosine: float = 0.0,
        mse: float = 0.0,
        tokens: Reduction = "mean",
        pairs: Reduction = "sum",
    ) -> None:
        for name, weight in (("cosine", cosine), ("mse", mse)):
            if not math.isfinite(weight):
                raise LinscoreError(f"{name}={weight}: give a finite weight, 0 to leave this term out")
        for name, reduction in (("tokens", tokens), ("pairs", pairs)):
            if reduction not in ("mean", "sum"):
                raise LinscoreError(f"unknown {name}={reduction!r}: choose mean or sum")
        self.mask, self.cosine, self.mse, self.tokens, self.pairs = mask, cosine, mse, tokens, pairs
        self.states = 0
        self._closed = False
        self._shape = torch.Size()
        self._weight: Tensor | None = None  # of each token: what counts, divided by how many count
        self._count: Tensor | float = 1.0
        self._thread: Tensor | None = None  # [2]: means over tokens of both terms, summed over pairs
        self._last: Tensor | None = None  # the latest state, detached
        self._slot: Slot = []  # between the latest state and the next

    @property
    def active(self) -> bool:
        """Whether any term has a weight."""
        return self.cosine != 0 or self.mse != 0

    def loss(self) -> Tensor:
        """The weighted loss, a scalar on the states' device, float32 (float64 for float64 states); ends the chain.

        Zero where both weights are. Raises LinscoreError where fewer than two states were tapped.
        """
        self._closed, self._last, self._slot = True, None, []
        if not self.active:
            return torch.zeros(())
        sums = self._sums()
        loss = self.cosine * sums[0] + self.mse * sums[1]
        loss = loss * self._count if self.tokens == "sum" else loss
        return loss / (self.states - 1) if self.pairs == "mean" else loss

    def terms(self) -> Terms:
        """Both terms so far. Raises LinscoreError where fewer than two states were tapped."""
        cosine, mse = (self._sums().detach() / (self.states - 1)).unbind()
        return Terms(cosine, mse)

    def _sums(self) -> Tensor:
        if self._thread is None or self.states < 2:
            seen = (
                f"{self.states} states were tapped" if self.active else "with cosine=0 and mse=0 no state is recorded"
            )
            raise LinscoreError(
                f"{seen}: distances need at least two, so tap the embeddings and what leaves each block"
            )
        return self._thread

    def _begin(self, state: Tensor) -> Tensor:
        """The weight of each token, `[n]`; the first state says how many there are."""
        if self._weight is None:
            self._shape = state.shape
            dtype = torch.float64 if state.dtype is torch.float64 else torch.float32
            self._weight = self._whole(state, dtype) if self.mask is None else self._masked(self.mask, state, dtype)
        if state.shape != self._shape:
            raise LinscoreError(
                f"a state of shape {tuple(state.shape)} in a chain of {tuple(self._shape)}: tap the residual stream"
            )
        return self._weight.to(state.device)

    def _whole(self, state: Tensor, dtype: torch.dtype) -> Tensor:
        count = math.prod(state.shape[:-1])
        self._count = count
        return state.new_full((count,), 1 / max(count, 1), dtype=dtype)

    def _masked(self, mask: Tensor, state: Tensor, dtype: torch.dtype) -> Tensor:
        if mask.shape != state.shape[:-1]:
            tokens = tuple(state.shape[:-1])
            raise LinscoreError(f"the mask is {tuple(mask.shape)} and the tokens {tokens}: give one entry per token")
        counts = (mask.to(state.device) != 0).flatten().to(dtype)
        self._count = counts.sum()
        return counts / self._count.clamp_min(1)

    def _record(self, state: Tensor, remake: Remake | None) -> Tensor:
        """`state` as a node of the chain."""
        weight = self._begin(state)
        previous = None if self._last is None else self._last.to(state.device)
        thread = weight.new_zeros(2) if self._thread is None else self._thread.to(state.device)
        slot: Slot = []
        tapped, self._thread = _Tap.apply(state, thread, previous, weight, (self._slot, slot), remake)
        self._last, self._slot = state.detach(), slot
        self.states += 1
        return tapped


class _Tap(torch.autograd.Function):
    """The identity on a state; the thread goes on with the distances from the previous state added."""

    @staticmethod
    def forward(
        ctx: Any,
        state: Tensor,
        thread: Tensor,
        previous: Tensor | None,
        weight: Tensor,
        slots: tuple[Slot, Slot],
        remake: Remake | None,
    ) -> tuple[Tensor, Tensor]:
        figures = None
        if previous is None:
            thread = thread.clone()
        else:
            sums, figures = layer_distances([_rows(previous), _rows(state)], weight)
            thread = thread + sums
            figures = figures[0]
        ctx.save_for_backward(state, previous, weight, figures)
        ctx.slots, ctx.remake = slots, remake
        ctx.set_materialize_grads(False)
        return state, thread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        if upstream is None:  # the loss of the chain was not asked for
            return grad, None, None, None, None, None
        state, previous, weight, figures = ctx.saved_tensors
        before, after = ctx.slots
        rows, before_it, after_it = _rows(state.detach()), None, None
        if previous is not None:
            before_it = _rows(previous), figures
            before[:] = [(ctx.remake or rows, figures)]
            ctx.remake = None  # what it refers to is let go with the saved tensors
        if after:
            following, of_pair = after.pop()
            following = following if isinstance(following, Tensor) else _rows(following(state))
            after_it = following.to(state.device), of_pair.to(state.device)
        if ctx.needs_input_grad[0]:
            given = None if grad is None else _rows(grad)
            own = layer_gradient(rows, weight, upstream, grad=given, previous=before_it, following=after_it)
            grad = own.view(state.shape)
        return grad, upstream, None, None, None, None


def _rows(state: Tensor) -> Tensor:
    return state.reshape(-1, state.shape[-1])


@torch.compiler.disable
def tap(h: Tensor, chain: Chain, remake: Remake | None = None) -> Tensor:
    """`h` `[B, T, d]`, unchanged, as the next state of `chain`; go on with what is returned.

    In backward `h` lives until the tap before this one is reached; given `remake`, it is made again there instead, by
    calling `remake` with the state before `h`.

    Its gradient is whole in whatever `h` was made of, not in the returned tensor itself (`retain_grad` on it shows what
    came from above). Do not change it in place: torch refuses. torch.compile breaks its graph here.

    Checkpointing: blocks between taps may be checkpointed. A tap inside a checkpointed function would be run again in
    backward, where nothing tells which state it was: that is refused with a LinscoreError. With the reentrant form
    (use_reentrant=True) such a tap sees no gradients in forward either.

    Raises:
        LinscoreError: for a state of another shape than the chain's, after `chain.loss()`, or in backward.
    """
    if not chain.active:
        return h
    if torch._C._current_graph_task_id() != -1:  # as torch.utils.checkpoint asks it
        raise LinscoreError(
            "a tap ran again in backward, inside a checkpointed function: tap what enters and leaves that function, "
            "or turn gradient checkpointing off"
        )
    if chain._closed:
        raise LinscoreError("a tap after the chain's loss was taken: make a new Chain for each forward pass")
    return chain._record(h, remake)


def layer_loss(
    states: Sequence[Tensor],
    mask: Tensor | None = None,
    *,
    cosine: float = 0.0,
    mse: float = 0.0,
    tokens: Reduction = "mean",
    pairs: Reduction = "sum",
) -> Tensor:
    """The loss of given states h_0 … h_L `[B, T, d]` (at least two), differentiable; arguments as in `Chain`.

    A scalar, float32 (float64 for float64 states); torch.compile keeps a caller's graph whole. Raises LinscoreError as
    `Chain` does.

    Examples:
        >>> states = model(batches[0], output_hidden_states=True).hidden_states[:-1]
        >>> linscore.layer_loss(states, cosine=1.0).shape
        torch.Size([])
    """
    chain = Chain(mask, cosine=cosine, mse=mse, tokens=tokens, pairs=pairs)
    if len(states) > 1 and chain.active:
        weight = [chain._begin(state) for state in states][-1]
        chain._thread, _ = layer_distances([_rows(state) for state in states], weight)
    chain.states = len(states)
    return chain.loss()
