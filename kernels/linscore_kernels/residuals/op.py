"""What an affine map misses of each token, as a torch operator: opaque to torch.compile, as those of second_moments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._ops import add_op_namespace_prefix
from ..arguments import check_map, check_tensors, y_or_delta
from ..backend import load_backend
from ..full_precision import full_precision
from ..pilot import ORDINARY
from . import eager


def residual_norms(
    x: Tensor,
    y: Tensor | None = None,
    delta: Tensor | None = None,
    *,
    b: Tensor,
    mean_x: Tensor,
    mean_delta: Tensor,
    rows: Tensor | None = None,
    precision: str = "fast",
    backend: str | None = None,
) -> Tensor:
    """‖δ − (x − μ_x)B − μ_δ‖ of each row: what a fitted map misses of this token (paper: Figure 9).

    Args:
        x: `[n, d]`; it, y, delta, rows, precision and backend are as in `token_stats`.
        y: `[n, d]`, or None.
        delta: `[n, d]`, or None.
        b: `[d, d]`; with 16-bit x at "fast" Triton rounds it to the dtype of x.
        mean_x: `[d]`.
        mean_delta: `[d]`.
        rows: int64 indices.
        precision: "fast" or "exact".
        backend: "triton" or "eager".

    Returns:
        `[n]` float32, float64 at "exact"; a row that is not finite has no finite norm.

    Raises:
        LinscoreError: for arguments that do not fit together.
    """
    check_tensors(x=x, y=y, delta=delta, b=b, mean_x=mean_x, mean_delta=mean_delta, rows=rows)
    other, given = y_or_delta(y, delta)
    return _residual_norms(x, other, rows, b, mean_x, mean_delta, given, precision, backend or "")


@torch.library.custom_op(add_op_namespace_prefix("residual_norms"), mutates_args=())
def _residual_norms(
    x: Tensor,
    other: Tensor,
    rows: Tensor | None,
    b: Tensor,
    mean_x: Tensor,
    mean_delta: Tensor,
    delta_given: bool,
    precision: str,
    backend: str,
) -> Tensor:
    check_map(x, b, mean_x, mean_delta)
    fitted = {"b": b, "mean_x": mean_x, "mean_delta": mean_delta}
    compute = load_backend("residuals", x.device, backend)
    asked: dict[str, Any] = {**fitted, "delta_given": delta_given, "rows": rows}
    with full_precision(x.device):
        norms: Tensor = compute.residual_norms(x, other, precision=precision, **asked)
        if precision == "fast" and ((norms < 2.0**-ORDINARY) | (norms > 2.0**ORDINARY)).any():
            norms = eager.residual_norms(x, other, precision="exact", **asked).float()
    return norms


@_residual_norms.register_fake
def _(x: Tensor, _other: Tensor, rows: Tensor | None, *rest: Any) -> Tensor:
    precision, _ = rest[-2:]
    n = (x if rows is None else rows).shape[0]
    return x.new_empty(n, dtype=torch.float32 if precision == "fast" else torch.float64)
