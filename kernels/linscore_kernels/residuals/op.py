"""What an affine map misses of each token, as a torch operator: opaque to torch.compile, as those of second_moments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._ops import add_op_namespace_prefix
from ..arguments import check_map
from ..backend import load_backend
from ..full_precision import full_precision
from ..given import as_rows, as_tensor
from ..pilot import ORDINARY
from . import eager


def residual_norms(
    x: Any,
    y: Any = None,
    delta: Any = None,
    *,
    b: Any,
    mean_x: Any,
    mean_delta: Any,
    mask: Any = None,
    rows: Any = None,
    precision: str = "fast",
    backend: str | None = None,
) -> Tensor:
    """‖δ − (x − μ_x)B − μ_δ‖ of each row: what a fitted map misses of this token (paper: Figure 9).

    Args:
        x: `[..., d]`; it, y, delta, mask and rows are as in `as_rows`.
        y: the same shape, or None.
        delta: the same shape, or None.
        b: `[d, d]`; with 16-bit x at "fast" Triton rounds it to the dtype of x.
        mean_x: `[d]`.
        mean_delta: `[d]`.
        mask: the leading shape of x, bool or 0 and 1.
        rows: in its place, int64 indices or bool of the flattened rows.
        precision: "fast" or "exact"; float64 x is exact in any case.
        backend: "triton" or "eager".

    Returns:
        The leading shape of x, or `[k]` of the rows that are picked, on the device of x: float32, float64 where it is
        exact; a row that is not finite has no finite norm.

    Raises:
        LinscoreError: for arguments that do not fit together.

    Examples:
        >>> b, none = torch.zeros(16, 16), torch.zeros(16)
        >>> norms = linscore_kernels.residual_norms(x, y, b=b, mean_x=none, mean_delta=none)
        >>> torch.allclose(norms, (y - x).norm(dim=1))
        True
    """
    x, y, delta, rows, shape = given = as_rows(x, y, delta, mask=mask, rows=rows)
    named = {"`b`": b, "`mean_x`": mean_x, "`mean_delta`": mean_delta}
    fitted = [as_tensor(what, value).to(x.device) for what, value in named.items()]
    check_map(x, *fitted)
    double = x.dtype is torch.float64
    if not given.n:
        return x.new_empty(shape, dtype=torch.float32 if precision == "fast" and not double else torch.float64)
    asked = ("exact", "eager") if double else (precision, backend or "")
    other, delta_given = (y, False) if delta is None else (delta, True)
    norms: Tensor = _residual_norms(x, other, rows, *fitted, delta_given, *asked)
    return norms.view(shape)


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
