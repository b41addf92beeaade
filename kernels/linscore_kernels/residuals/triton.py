"""The residual norms on a GPU: the kernel for 16-bit states, torch's products for what would have to be split."""

from __future__ import annotations

from torch import Tensor

from ..second_moments.triton import check, is_split
from . import eager
from .kernel import launch_residual_norms, round_map


def residual_norms(
    x: Tensor,
    other: Tensor,
    *,
    delta_given: bool,
    b: Tensor,
    mean_x: Tensor,
    mean_delta: Tensor,
    rows: Tensor | None = None,
    precision: str = "fast",
) -> Tensor:
    """‖δ − (x − μ_x)B − μ_δ‖ of the (picked) rows `[n]`; B is rounded to the 16 bits of x.

    Raises LinscoreError for arguments that do not fit together.
    """
    check(x, other, rows, precision)
    if is_split(x.dtype, precision):
        # Split operands would take a kernel of their own and three passes, for figures that are plotted and not
        # scored: torch's float32 and float64 products do.
        fitted = {"b": b, "mean_x": mean_x, "mean_delta": mean_delta}
        return eager.residual_norms(x, other, delta_given=delta_given, rows=rows, precision=precision, **fitted)
    if rows is not None:
        x, other = x.index_select(0, rows), other.index_select(0, rows)
    rounded = round_map(b, mean_x, mean_delta, x.dtype)
    return launch_residual_norms(x, other, rounded, delta_given=delta_given)
