"""The operations as torch operators: opaque to torch.compile, which keeps its graph whole around them.

Each public function packs its arguments flat, `linscore::*` picks the backend and calls it, and a fake tells shapes.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from linscore_kernels.arguments import check_map, check_pilot, check_second
from linscore_kernels.backend import choose_backend, load_backend
from linscore_kernels.pilot import Pilot
from linscore_kernels.sums import FIGURES, SCALARS, Sums, TokenStats


def token_stats(
    x: Tensor,
    y: Tensor | None = None,
    delta: Tensor | None = None,
    *,
    pilot: Pilot,
    rows: Tensor | None = None,
    precision: str = "fast",
    backend: str | None = None,
) -> TokenStats:
    """One pass over the rows of `x` against `y` or the given `delta`: operands, per-token figures, column sums.

    Args:
        x: `[n, d]`, any float dtype (Triton: 16 or 32 bit) and strides.
        y: `[n, d]`, or None where `delta` is given.
        delta: `[n, d]`, y − x; or narrower, `[n, e]` with e ≤ d, as the pilot's: then y is x + [delta, 0].
        pilot: where rows are centred and when one is heavy.
        rows: int64 indices of the rows that count; all by default.
        precision: "fast" or "exact".
        backend: "triton" or "eager"; by default $LINSCORE_BACKEND, else what fits the device.

    Raises:
        ValueError: for arguments that do not fit together.
    """
    other, given = _other(y, delta)
    return TokenStats(*_token_stats(x, other, rows, *_flat(pilot), given, precision, backend or ""))


def gram(operands: Tensor, out: Tensor, *, backend: str | None = None) -> None:
    """Add [Σx̂x̂ᵀ | Σx̂δ̂ᵀ] of the `operands` of `token_stats` to `out` `[d, d + e]` (float32 or float64).

    Of δ̂ as many columns are multiplied as `out` has room for. Below the diagonal of the left half nothing is promised.
    """
    _gram(operands, out, backend or "")


def accumulate(
    x: Tensor,
    y: Tensor | None,
    delta: Tensor | None,
    second: Tensor,
    *,
    pilot: Pilot,
    rows: Tensor | None = None,
    precision: str = "fast",
    sign: int = 1,
    backend: str | None = None,
) -> Sums:
    """`token_stats` and `gram` in one pass, chunk by chunk.

    Adds `sign` times the second moments of the light rows, about the pilot's centre, to `second` `[d, d + e]` float64
    and returns their other sums; the arguments are those of `token_stats`.
    """
    other, given = _other(y, delta)
    return Sums(*_accumulate(x, other, second, rows, *_flat(pilot), given, precision, sign, backend or ""))


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
    """
    other, given = _other(y, delta)
    return _residual_norms(x, other, rows, b, mean_x, mean_delta, given, precision, backend or "")


def _other(y: Tensor | None, delta: Tensor | None) -> tuple[Tensor, bool]:
    """Y or δ, and whether it is δ."""
    if y is not None and delta is None:
        return y, False
    if delta is not None and y is None:
        return delta, True
    raise ValueError("pass either y or delta: the other one follows from it")


def _flat(pilot: Pilot) -> tuple[Tensor, Tensor, Tensor, Tensor, float, float]:
    centers, scales = (pilot.center_x, pilot.center_delta), (pilot.scale_x, pilot.scale_delta)
    return *centers, *scales, pilot.limit_x, pilot.limit_delta


def _backend(device: torch.device, name: str) -> ModuleType:
    return load_backend(choose_backend(device, name or None))


@torch.library.custom_op("linscore::token_stats", mutates_args=())
def _token_stats(
    x: Tensor,
    other: Tensor,
    rows: Tensor | None,
    center_x: Tensor,
    center_delta: Tensor,
    scale_x: Tensor,
    scale_delta: Tensor,
    limit_x: float,
    limit_delta: float,
    delta_given: bool,
    precision: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pilot = Pilot(center_x, center_delta, scale_x, scale_delta, limit_x, limit_delta)
    check_pilot(x, pilot, delta_given)
    compute = _backend(x.device, backend)
    stats = compute.token_stats(x, other, delta_given=delta_given, pilot=pilot, rows=rows, precision=precision)
    return tuple(stats)


@_token_stats.register_fake
def _(x: Tensor, _other: Tensor, rows: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    precision, backend = rest[-2:]
    n, d = (x if rows is None else rows).shape[0], x.shape[1]
    shape, dtype = _backend(x.device, backend).operand_shape(n, d, x.dtype, precision)
    figures = torch.float64 if dtype is torch.float64 else torch.float32
    return (
        x.new_empty(shape, dtype=dtype),
        x.new_empty(len(FIGURES), n, dtype=figures),
        x.new_empty(n, dtype=torch.uint8),
        x.new_empty(2, d, dtype=torch.float64),
    )


@torch.library.custom_op("linscore::gram", mutates_args=("out",))
def _gram(operands: Tensor, out: Tensor, backend: str) -> None:
    _backend(out.device, backend).gram(operands, out)


@torch.library.custom_op("linscore::accumulate", mutates_args=("second",))
def _accumulate(
    x: Tensor,
    other: Tensor,
    second: Tensor,
    rows: Tensor | None,
    center_x: Tensor,
    center_delta: Tensor,
    scale_x: Tensor,
    scale_delta: Tensor,
    limit_x: float,
    limit_delta: float,
    delta_given: bool,
    precision: str,
    sign: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    pilot = Pilot(center_x, center_delta, scale_x, scale_delta, limit_x, limit_delta)
    check_pilot(x, pilot, delta_given)
    check_second(x, second, pilot.width_delta)
    options = {"pilot": pilot, "rows": rows, "precision": precision, "sign": sign}
    return tuple(_backend(x.device, backend).accumulate(x, other, second, delta_given=delta_given, **options))


@_accumulate.register_fake
def _(x: Tensor, other: Tensor, _second: Tensor, rows: Tensor | None, *_rest: Any) -> tuple[Tensor, ...]:
    n, d = (x if rows is None else rows).shape[0], x.shape[1]
    shapes = ((), (d,), (other.shape[1],), (len(SCALARS),))
    sums = (x.new_empty(shape, dtype=torch.float64) for shape in shapes)
    return *sums, x.new_empty(n, dtype=torch.uint8)


@torch.library.custom_op("linscore::residual_norms", mutates_args=())
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
    compute = _backend(x.device, backend)
    norms: Tensor = compute.residual_norms(x, other, delta_given=delta_given, rows=rows, precision=precision, **fitted)
    return norms


@_residual_norms.register_fake
def _(x: Tensor, _other: Tensor, rows: Tensor | None, *rest: Any) -> Tensor:
    precision, _ = rest[-2:]
    n = (x if rows is None else rows).shape[0]
    return x.new_empty(n, dtype=torch.float32 if precision == "fast" else torch.float64)
