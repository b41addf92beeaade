"""The residual norms in plain torch, a chunk of rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..given import DTYPES
from ..second_moments.eager import CHUNK, pick, spans
from ..second_moments.eager_products import matmul


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
    """‖δ − (x − μ_x)B − μ_δ‖ of the (picked) rows `[n]`, in float32, or float64 at `precision` "exact"."""
    check_arguments(x, other, rows, precision, DTYPES)
    dtype = torch.float32 if precision == "fast" else torch.float64
    b, mean_x, mean_delta = b.to(dtype), mean_x.to(dtype), mean_delta.to(dtype)
    norms = []
    for start, stop in spans(0, len(x) if rows is None else len(rows), CHUNK):
        pair = pick(x, other, rows, start, stop)
        x_part, other_part = pair.x.to(dtype), pair.other.to(dtype)
        residual = other_part - mean_delta if delta_given else other_part - x_part - mean_delta
        residual -= matmul(x_part - mean_x, b)
        norms.append(torch.linalg.vector_norm(residual, dim=1))
    return torch.cat(norms)
