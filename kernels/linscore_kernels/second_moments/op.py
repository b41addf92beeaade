"""The operations as torch operators: opaque to torch.compile, which keeps its graph whole around them.

Each public function packs its arguments flat, `linscore::*` picks the backend and calls it, and a fake tells shapes.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .._ops import add_op_namespace_prefix
from ..arguments import check_pilot, check_second, check_sign, y_or_delta
from ..backend import load_backend
from ..full_precision import full_precision
from ..pilot import Pilot
from ..sums import FIGURES, SCALARS, Sums, TokenStats


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
        LinscoreError: for arguments that do not fit together.

    Examples:
        >>> stats = linscore_kernels.token_stats(x, y, pilot=linscore_kernels.Pilot.choose(x, y))
        >>> stats.figures.shape  # one row each of FIGURES
        torch.Size([5, 600])
    """
    other, given = y_or_delta(y, delta)
    return TokenStats(*_token_stats(x, other, rows, *_flat(pilot), given, precision, backend or ""))


def gram(operands: Tensor, out: Tensor, *, backend: str | None = None) -> None:
    """Add [Σx̂x̂ᵀ | Σx̂δ̂ᵀ] of the `operands` of `token_stats` to `out` `[d, d + e]` (float32 or float64).

    Of δ̂ as many columns are multiplied as `out` has room for. Below the diagonal of the left half nothing is promised.

    Examples:
        >>> stats = linscore_kernels.token_stats(x, y, pilot=linscore_kernels.Pilot.choose(x, y))
        >>> second = torch.zeros(16, 32, dtype=torch.float64)
        >>> linscore_kernels.gram(stats.operands, second)
        >>> bool(second.diagonal().min() > 0)
        True
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

    Examples:
        >>> pilot = linscore_kernels.Pilot.choose(x, y)
        >>> second = torch.zeros(16, 32, dtype=torch.float64)
        >>> for half in (slice(300), slice(300, 600)):
        ...     sums = linscore_kernels.accumulate(x[half], y[half], None, second, pilot=pilot)
        >>> centred = (x - pilot.center_x).double()
        >>> torch.allclose(second[:, :16].triu(), (centred.T @ centred).triu(), atol=1e-4)
        True
    """
    check_sign(sign)
    other, given = y_or_delta(y, delta)
    asked = (*_flat(pilot), given, precision, sign, backend or "")
    columns, totals, status = _accumulate(x, other, second, rows, *asked)
    return Sums(columns, totals, status, pilot.width_delta)


def _flat(pilot: Pilot) -> tuple[Tensor, Tensor, int, float, float]:
    return pilot.centers, pilot.scales, len(pilot.center_x), pilot.limit_x, pilot.limit_delta


def _backend(device: torch.device, wanted: str) -> ModuleType:
    return load_backend("second_moments", device, wanted)


@torch.library.custom_op(add_op_namespace_prefix("token_stats"), mutates_args=())
def _token_stats(
    x: Tensor,
    other: Tensor,
    rows: Tensor | None,
    centers: Tensor,
    scales: Tensor,
    width: int,
    limit_x: float,
    limit_delta: float,
    delta_given: bool,
    precision: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pilot = Pilot.of(centers, scales, width, limit_x, limit_delta)
    check_pilot(x, pilot, delta_given)
    compute = _backend(x.device, backend)
    with full_precision(x.device):
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


@torch.library.custom_op(add_op_namespace_prefix("gram"), mutates_args=("out",))
def _gram(operands: Tensor, out: Tensor, backend: str) -> None:
    with full_precision(out.device):
        _backend(out.device, backend).gram(operands, out)


@torch.library.custom_op(add_op_namespace_prefix("accumulate"), mutates_args=("second",))
def _accumulate(
    x: Tensor,
    other: Tensor,
    second: Tensor,
    rows: Tensor | None,
    centers: Tensor,
    scales: Tensor,
    width: int,
    limit_x: float,
    limit_delta: float,
    delta_given: bool,
    precision: str,
    sign: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    pilot = Pilot.of(centers, scales, width, limit_x, limit_delta)
    check_pilot(x, pilot, delta_given)
    check_second(x, second, pilot.width_delta)
    options = {"pilot": pilot, "rows": rows, "precision": precision, "sign": sign}
    with full_precision(x.device):
        sums = _backend(x.device, backend).accumulate(x, other, second, delta_given=delta_given, **options)
    return sums.columns, sums.totals, sums.status


@_accumulate.register_fake
def _(x: Tensor, _other: Tensor, _second: Tensor, rows: Tensor | None, *_rest: Any) -> tuple[Tensor, ...]:
    n, d = (x if rows is None else rows).shape[0], x.shape[1]
    columns, totals = (x.new_empty(shape, dtype=torch.float64) for shape in ((2, d), (len(SCALARS) + 3,)))
    return columns, totals, x.new_empty(n, dtype=torch.uint8)
