"""Centred, normalized Gram matrices of two sets of features in one call.

    C_xx = Σ (x−μ_x)(x−μ_x)ᵀ      C_xy = Σ (x−μ_x)(y−μ_y)ᵀ      t_x = tr C_xx      t_y = Σ ‖y−μ_y‖²

Centring is a rank-1 correction of sums that the pass accumulates anyway, and Frobenius normalization is a division by
a trace. Subtracting the means inside the token loop instead would need a pass to find them first, would send every
operand through registers on its way to the tensor core, and would round x − μ to 16 bits: slower and less exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._ops import add_op_namespace_prefix
from ..errors import LinscoreError
from ..given import as_rows
from ..pilot import Pilot
from ..sums import NONFINITE, SCALARS, Sums, add_up, centre
from .heavy_rows import accumulate_apart


class CenteredGram(NamedTuple):
    """What `centered_gram` returns; all tensors float64.

    Examples:
        >>> gram = linscore_kernels.centered_gram(x, y, normalize=False)
        >>> torch.allclose(gram.c_xx.trace(), gram.t_x)
        True
    """

    c_xx: Tensor  # [d, d], symmetric
    c_xy: Tensor  # [d, d]
    t_x: Tensor  # []
    t_y: Tensor  # []
    n: int


def centered_gram(
    x: Any,
    y: Any,
    mask: Any = None,
    *,
    rows: Any = None,
    normalize: bool = True,
    precision: str = "fast",
    backend: str | None = None,
) -> CenteredGram:
    """Centred Gram matrices of `x` and `y` `[..., d]`, rows being tokens.

    With `normalize`, C_xx is divided by t_x and C_xy by √(t_x t_y), the products of the paper's X̃ and Ỹ (section 3.1);
    t_x and t_y are the traces before that.

    Args:
        x: it, y, mask and rows are as in `as_rows`; float64 is exact in any case.
        y: the same shape.
        mask: the leading shape, bool or 0 and 1.
        rows: in its place, int64 indices or bool of the flattened rows.
        normalize: whether the products are of features of unit norm.
        precision: "fast" or "exact".
        backend: "triton" or "eager".

    Raises:
        LinscoreError: for other shapes, without a row, and where a row that counts is not finite.

    Examples:
        >>> gram = linscore_kernels.centered_gram(x, y, normalize=False)
        >>> int(gram.n), torch.allclose(gram.c_xx / 599, torch.cov(x.T.double()), atol=1e-6)
        (600, True)
    """
    x, y, _, rows, _ = given = as_rows(x, y, mask=mask, rows=rows)
    asked = ("exact", "eager") if x.dtype is torch.float64 else (precision, backend or "")
    c_xx, c_xy, t_x, t_y = _centered_gram(x, y, rows, normalize, *asked)
    return CenteredGram(c_xx, c_xy, t_x, t_y, given.n)


@torch.library.custom_op(add_op_namespace_prefix("centered_gram"), mutates_args=())
def _centered_gram(
    x: Tensor, y: Tensor, rows: Tensor | None, normalize: bool, precision: str, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if x.ndim != 2 or x.shape != y.shape or not len(x if rows is None else rows):
        raise LinscoreError(
            f"`x` and `y` are {list(x.shape)} and {list(y.shape)}: give [n, d] of one shape, with a row that counts"
        )
    second = torch.zeros(x.shape[1], 2 * x.shape[1], dtype=torch.float64, device=x.device)
    sums = _sums(x, y, rows, second, precision, backend)
    c_xx, c_xy, t_y = centre(sums.n, sums.sum_x, sums.sum_delta, second, sums.scalars[SCALARS.index("q_delta")])
    t_x = c_xx.trace()
    if normalize:
        c_xx, c_xy = c_xx / t_x, c_xy / (t_x * t_y).sqrt()
    return c_xx, c_xy, t_x, t_y


@_centered_gram.register_fake
def _(x, y, rows, normalize, precision, backend):  # type: ignore[no-untyped-def] # noqa: ARG001
    d = x.shape[1]
    shapes = ((d, d), (d, d), (), ())
    return tuple(x.new_empty(shape, dtype=torch.float64) for shape in shapes)


def _sums(x: Tensor, y: Tensor, rows: Tensor | None, second: Tensor, precision: str, backend: str) -> Sums:
    """The sums about a pilot centre, with y in the place of δ; second moments go to `second`."""
    pilot = Pilot.choose(x, None, y, rows)
    if pilot is None:
        raise LinscoreError("`x` or `y` has no finite row: give some")
    light, heavy = accumulate_apart(
        x, None, y, second, lambda: second, pilot=pilot, rows=rows, precision=precision, backend=backend
    )
    if (light.status == NONFINITE).any():
        raise LinscoreError("`x` or `y` holds NaN or infinite values: leave those rows out (`mask`)")
    return add_up([light] if heavy is None else [light, heavy])
