"""How far consecutive states of a residual stream are apart, cosine and squared distance, and the gradients of both.

    D = Σ_i Σ_t w_t (1 − cos(h_i, h_{i−1}))        Q = Σ_i Σ_t w_t ‖h_i − h_{i−1}‖²        i = 1 … L

Source: "Your Transformer is Secretly Linear", ACL 2024, sections 3.2 and 4. Of each pair and token three floats are
kept, ‖h_{i−1}‖, ‖h_i‖ and p = ⟨h_{i−1}, h_i⟩. A neighbour m of h contributes to the gradient of u_D·D + u_Q·Q in h

    w (u_D c + 2u_Q) (h − m) − w u_D c (1 − p/‖h‖²) h        c = 1/(‖h‖‖m‖)

with h − m formed first where they are near, ‖h − m‖² < ‖h‖‖m‖, as neighbours mostly are; elsewhere, as after the
embeddings, terms in h are collected, because h may be much longer than m. Vectors shorter than SHORTEST count as zero:
their cosine is 0 and so is its gradient. Tokens of weight 0 may hold anything, NaN included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._ops import add_op_namespace_prefix
from ..backend import choose_backend
from ..errors import LinscoreError
from ..given import DTYPES
from . import eager
from .eager import SHORTEST


def layer_distances(states: Sequence[Tensor], weight: Tensor, *, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """D and Q of a chain of states; differentiable in the states.

    Args:
        states: at least two, `[n, d]`, any float dtypes and strides.
        weight: `[n]`, of each token, float32 (float64 where the first state is).
        backend: "triton" or "eager"; by default $LINSCORE_BACKEND, else what fits the device. float64 is eager's.

    Returns:
        `[2]`, D and Q; `[L, 3, n]`, the floats that `layer_gradient` takes. Both in the dtype of `weight`.

    Raises:
        LinscoreError: for states or weights that do not fit together.

    Examples:
        >>> states = [x, y, y + 1]
        >>> sums, floats = linscore_kernels.layer_distances(states, torch.ones(600))
        >>> torch.allclose(sums[1], (y - x).square().sum() + torch.ones_like(x).sum())
        True
    """
    sums, figures = _layer_distances(list(states), weight, backend or "")
    return sums, figures


def layer_gradient(
    state: Tensor,
    weight: Tensor,
    upstream: Tensor,
    *,
    grad: Tensor | None = None,
    previous: tuple[Tensor, Tensor] | None = None,
    following: tuple[Tensor, Tensor] | None = None,
    backend: str | None = None,
) -> Tensor:
    """The gradient of u_D·D + u_Q·Q in one state, added to the one that has come so far.

    Args:
        state: `[n, d]`.
        weight: `[n]`, as in `layer_distances`; so is `backend`.
        upstream: `[2]`, u_D and u_Q, in the dtype of `weight`.
        grad: `[n, d]`, or None; it is left as it is.
        previous: h_{i−1} `[n, d]` and `[3, n]`, the floats of that pair; None for the first state.
        following: h_{i+1} and the floats of this pair; None for the last state.
        backend: "triton" or "eager".

    Returns:
        `[n, d]`, dtype of `state`: float32 arithmetic, rounded once.

    Raises:
        LinscoreError: for tensors that do not fit together.

    Examples:
        >>> weight, upstream = torch.ones(600), torch.tensor([0.0, 1.0])
        >>> _, floats = linscore_kernels.layer_distances([x, y], weight)
        >>> gradient = linscore_kernels.layer_gradient(y, weight, upstream, previous=(x, floats[0]))
        >>> torch.allclose(gradient, 2 * (y - x), atol=1e-5)
        True
    """
    neighbours = *(previous or (None, None)), *(following or (None, None))
    gradient: Tensor = _layer_gradient(state, weight, upstream, grad, *neighbours, backend or "")
    return gradient


@torch.library.custom_op(add_op_namespace_prefix("layer_distances"), mutates_args=())
def _layer_distances(states: list[Tensor], weight: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    if len(states) < 2:
        raise LinscoreError(f"`states` are {len(states)}: give two at least")
    _check(states, weight)
    figures = weight.new_empty(len(states) - 1, 3, len(weight))
    if _by_triton(weight, backend):
        from .kernel import launch_distances

        return launch_distances(states, figures, weight, SHORTEST), figures
    return eager.distances(states, weight, figures), figures


@_layer_distances.register_fake
def _(states: list[Tensor], weight: Tensor, _backend: str) -> tuple[Tensor, Tensor]:
    return weight.new_empty(2), weight.new_empty(len(states) - 1, 3, len(weight))


def _keep(ctx: Any, inputs: tuple[list[Tensor], Tensor, str], output: tuple[Tensor, Tensor]) -> None:
    states, weight, ctx.backend = inputs
    ctx.save_for_backward(*states, weight, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, upstream: Tensor | None, _figures: Tensor | None) -> tuple[list[Tensor | None], None, None]:
    *states, weight, figures = ctx.saved_tensors
    if upstream is None:
        return [None] * len(states), None, None
    needed = list(ctx.needs_input_grad[0])
    found = iter(_layer_gradients(states, weight, upstream, figures, needed, ctx.backend))
    return [next(found) if wanted else None for wanted in needed], None, None


_layer_distances.register_autograd(_gradients, setup_context=_keep)


@torch.library.custom_op(add_op_namespace_prefix("layer_gradients"), mutates_args=())
def _layer_gradients(
    states: list[Tensor], weight: Tensor, upstream: Tensor, figures: Tensor, needed: list[bool], backend: str
) -> list[Tensor]:
    """The gradients in those states of a chain for which they are needed."""
    outs = [_empty(state) if wanted else None for state, wanted in zip(states, needed, strict=True)]
    _write_gradients(states, list(figures), weight, upstream, [None] * len(states), outs, backend)
    return [out for out in outs if out is not None]


@torch.library.custom_op(add_op_namespace_prefix("layer_gradient"), mutates_args=())
def _layer_gradient(
    state: Tensor,
    weight: Tensor,
    upstream: Tensor,
    grad: Tensor | None,
    previous: Tensor | None,
    previous_figures: Tensor | None,
    following: Tensor | None,
    following_figures: Tensor | None,
    backend: str,
) -> Tensor:
    _check([t for t in (state, grad, previous, following) if t is not None], weight)
    out = _empty(state)
    chain = [h for h in (previous, state, following) if h is not None]
    figures = [floats for floats in (previous_figures, following_figures) if floats is not None]
    own = 0 if previous is None else 1
    grads, outs = ([only if i == own else None for i in range(len(chain))] for only in (grad, out))
    _write_gradients(chain, figures, weight, upstream, grads, outs, backend)
    return out


@_layer_gradient.register_fake
def _(state: Tensor, *_rest: Any) -> Tensor:
    return _empty(state)


@_layer_gradients.register_fake
def _(
    states: list[Tensor], _weight: Tensor, _upstream: Tensor, _figures: Tensor, needed: list[bool], _backend: str
) -> list[Tensor]:
    return [_empty(state) for state, wanted in zip(states, needed, strict=True) if wanted]


def _empty(state: Tensor) -> Tensor:
    return torch.empty_like(state, memory_format=torch.contiguous_format)


def _write_gradients(
    states: list[Tensor],
    figures: list[Tensor],
    weight: Tensor,
    upstream: Tensor,
    grads: list[Tensor | None],
    outs: list[Tensor | None],
    backend: str,
) -> None:
    """Write the gradients in a chain of states, plus `grads`, to `outs` where there are any."""
    if _by_triton(weight, backend):
        from .kernel import launch_gradients

        launch_gradients(states, figures, weight, upstream, grads, outs, SHORTEST)
    else:
        eager.gradients(states, figures, weight, upstream, grads, outs)


def _by_triton(weight: Tensor, backend: str) -> bool:
    return choose_backend(weight.device, backend or None) == "triton" and weight.dtype is not torch.float64


def _check(states: list[Tensor], weight: Tensor) -> None:
    first = states[0]
    if first.ndim != 2:
        raise LinscoreError(f"`states` are {list(first.shape)}: give [n, d]")
    wrong = [state.dtype for state in states if state.dtype not in DTYPES]
    if wrong:
        raise LinscoreError(f"`states` are {wrong[0]}: convert them to {', '.join(map(str, DTYPES))}")
    if any(state.shape != first.shape for state in states):
        raise LinscoreError(f"`states` differ in shape: give all {list(first.shape)}, as the first")
    wanted = torch.float64 if first.dtype is torch.float64 else torch.float32
    if weight.shape != first.shape[:1] or weight.dtype is not wanted:
        raise LinscoreError(f"`weight` is {list(weight.shape)} {weight.dtype}: give [{len(first)}] {wanted}")
