"""xᵀx of one set of features: half the products of a matrix product, and its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._ops import add_op_namespace_prefix
from ..backend import load_backend
from ..errors import LinscoreError
from ..full_precision import full_precision
from ..given import DTYPES, as_tensor
from ..sums import mirrored


def symmetric_gram(x: Tensor, *, backend: str | None = None) -> Tensor:
    """xᵀx of `x`, about no centre; differentiable in `x`.

    16-bit and float32 x are multiplied and added in float32, and sums of many rows in float64. A value that is not
    finite makes its row and column of the result not finite.

    Args:
        x: `[n, d]`, rows being tokens, any float dtype and strides: of `w` `[d, n]`, w wᵀ is that of `w.T`.
        backend: "triton" or "eager"; by default $LINSCORE_BACKEND, else what fits the device. Triton multiplies 16-bit
            x; of float32 and float64 x torch does, on a GPU all d² sums.

    Returns:
        `[d, d]` float32, float64 of float64 x; symmetric to the last bit.

    Raises:
        LinscoreError: for an `x` that is no tensor `[n, d]` of floats with n ≥ 1.

    Examples:
        >>> torch.allclose(linscore_kernels.symmetric_gram(x), x.T @ x, atol=1e-3)
        True
    """
    gram: Tensor = _symmetric_gram(as_tensor("`x`", x), backend or "")
    return gram


@torch.library.custom_op(add_op_namespace_prefix("symmetric_gram"), mutates_args=())
def _symmetric_gram(x: Tensor, backend: str) -> Tensor:
    if x.ndim != 2 or not len(x) or x.dtype not in DTYPES:
        raise LinscoreError(f"`x` is {list(x.shape)} {x.dtype}: give [n, d] floats with n ≥ 1")
    gram = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    with full_precision(x.device):
        load_backend("second_moments", x.device, backend).symmetric_gram(x, gram)
    return mirrored(gram.to(_dtype(x)))


@_symmetric_gram.register_fake
def _(x: Tensor, _backend: str) -> Tensor:
    return x.new_empty(x.shape[1], x.shape[1], dtype=_dtype(x))


def _keep(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(inputs[0])


def _gradient(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
    """x(G + Gᵀ), of the gradient G of what xᵀx goes into."""
    (x,) = ctx.saved_tensors
    with full_precision(x.device):
        return (x.to(upstream.dtype) @ (upstream + upstream.T)).to(x.dtype), None


_symmetric_gram.register_autograd(_gradient, setup_context=_keep)


def _dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype is torch.float64 else torch.float32
