"""Centred, normalized Gram matrices of two sets of features in one call.

    C_xx = Σ (x−μ_x)(x−μ_x)ᵀ      C_xy = Σ (x−μ_x)(y−μ_y)ᵀ      t_x = tr C_xx      t_y = Σ ‖y−μ_y‖²

Centring is a rank-1 correction of sums that the pass accumulates anyway, and Frobenius normalization is a division by
a trace. Subtracting the means inside the token loop instead would need a pass to find them first, would send every
operand through registers on its way to the tensor core, and would round x − μ to 16 bits: slower and less exact.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._ops import add_op_namespace_prefix
from ..arguments import check_tensors
from ..errors import LinscoreError
from ..pilot import Pilot
from ..sums import NONFINITE, SCALARS, Sums, add_up, centre
from .heavy_rows import accumulate_apart


class CenteredGram(NamedTuple):
    """What `centered_gram` returns; all tensors float64."""

    c_xx: Tensor  # [d, d], symmetric
    c_xy: Tensor  # [d, d]
    t_x: Tensor  # []
    t_y: Tensor  # []
    n: int


def centered_gram(
    x: Tensor, y: Tensor, *, normalize: bool = True, precision: str = "fast", backend: str | None = None
) -> CenteredGram:
    """Centred Gram matrices of `x` and `y` `[n, d]` (float32, float16 or bfloat16), rows being tokens.

    With `normalize`, C_xx is divided by t_x and C_xy by √(t_x t_y), the products of the paper's X̃ and Ỹ (section 3.1);
    t_x and t_y are the traces before that. Raises LinscoreError on other shapes and where a row is not finite.
    """
    check_tensors(x=x, y=y)
    c_xx, c_xy, t_x, t_y = _centered_gram(x, y, normalize, precision, backend or "")
    return CenteredGram(c_xx, c_xy, t_x, t_y, x.shape[0])


@torch.library.custom_op(add_op_namespace_prefix("centered_gram"), mutates_args=())
def _centered_gram(
    x: Tensor, y: Tensor, normalize: bool, precision: str, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if x.ndim != 2 or x.shape != y.shape or not len(x):
        raise LinscoreError(
            f"x and y must be [n, d] of one shape with n ≥ 1, not {tuple(x.shape)} and {tuple(y.shape)}"
        )
    second = torch.zeros(x.shape[1], 2 * x.shape[1], dtype=torch.float64, device=x.device)
    sums = _sums(x, y, second, precision, backend)
    c_xx, c_xy, t_y = centre(sums.n, sums.sum_x, sums.sum_delta, second, sums.scalars[SCALARS.index("q_delta")])
    t_x = c_xx.trace()
    if normalize:
        c_xx, c_xy = c_xx / t_x, c_xy / (t_x * t_y).sqrt()
    return c_xx, c_xy, t_x, t_y


@_centered_gram.register_fake
def _(x, y, normalize, precision, backend):  # type: ignore[no-untyped-def] # noqa: ARG001
    d = x.shape[1]
    shapes = ((d, d), (d, d), (), ())
    return tuple(x.new_empty(shape, dtype=torch.float64) for shape in shapes)


def _sums(x: Tensor, y: Tensor, second: Tensor, precision: str, backend: str) -> Sums:
    """The sums about a pilot centre, with y in the place of δ; second moments go to `second`."""
    pilot = Pilot.choose(x, None, y)
    if pilot is None:
        raise LinscoreError("x or y has no finite row")
    light, heavy = accumulate_apart(
        x, None, y, second, lambda: second, pilot=pilot, precision=precision, backend=backend
    )
    if (light.status == NONFINITE).any():
        raise LinscoreError("x or y holds NaN or infinite values: leave those rows out")
    return add_up([light] if heavy is None else [light, heavy])
