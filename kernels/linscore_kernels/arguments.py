"""What the operations ask of their arguments; each check says what to do."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import LinscoreError
from .pilot import Pilot


def y_or_delta(y: Tensor | None, delta: Tensor | None) -> tuple[Tensor, bool]:
    """Y or δ, and whether it is δ."""
    if y is not None and delta is None:
        return y, False
    if delta is not None and y is None:
        return delta, True
    raise LinscoreError("give either `y` or `delta` beside `x`: the other one follows from it")


def check_rows(rows: Tensor, x: Tensor) -> None:
    """Raises LinscoreError unless `rows` are indices of rows of `x`; on a GPU their range is not looked at."""
    if rows.dtype is not torch.int64 or rows.ndim != 1 or rows.device != x.device:
        raise LinscoreError(
            f"`rows` must be a vector of int64 indices on {x.device}, not {rows.dtype} on {rows.device}"
        )
    if len(rows) and rows.device.type == "cpu" and not 0 <= int(rows.min()) <= int(rows.max()) < len(x):
        raise LinscoreError(f"`rows` are {int(rows.min())} to {int(rows.max())}: give indices from 0 to {len(x) - 1}")


def check_arguments(
    x: Tensor,
    other: Tensor,
    rows: Tensor | None,
    precision: str,
    dtypes: tuple[torch.dtype, ...],
    width_delta: int | None = None,
) -> None:
    """What both backends ask of x and of y or δ, `other`; raises LinscoreError that says what to do.

    `width_delta` is the width of a given δ, where it may be narrower than x.
    """
    if precision not in ("fast", "exact"):
        raise LinscoreError(f"`precision` is {precision!r}: choose fast or exact")
    for name, tensor in (("`x`", x), ("`y` or `delta`", other)):
        if tensor.dtype not in dtypes:
            raise LinscoreError(f"{name} is {tensor.dtype}: convert it to {' or '.join(map(str, dtypes))}")
        if tensor.device != x.device:
            raise LinscoreError(f"{name} is on {tensor.device} and `x` on {x.device}: move one of them")
    _check_shapes(x, other, width_delta)
    if not x.shape[0] or (rows is not None and not rows.shape[0]):
        raise LinscoreError("`x` has no row: skip empty batches")
    if rows is not None:
        check_rows(rows, x)


def _check_shapes(x: Tensor, other: Tensor, width_delta: int | None) -> None:
    narrower = width_delta is not None and x.ndim == 2 and width_delta < x.shape[1]
    if x.ndim != 2 or other.shape != (x.shape[0], width_delta if narrower else x.shape[1]):
        wanted = f"give a `delta` [n, {width_delta}], as wide as the pilot's" if narrower else "give both [n, d]"
        raise LinscoreError(f"`y` or `delta` is {list(other.shape)} beside `x` {list(x.shape)}: {wanted}")


def check_pilot(x: Tensor, pilot: Pilot, delta_given: bool) -> None:
    """Raises LinscoreError unless the pilot has the width and the device of `x`, and of δ at most where δ is given."""
    if pilot.center_x.shape != x.shape[1:] or pilot.center_x.device != x.device:
        where = f"{tuple(pilot.center_x.shape)} on {pilot.center_x.device}"
        raise LinscoreError(
            f"the centre of `pilot` is {where}: choose it from rows of `x` and move it with pilot.to(x.device)"
        )
    if pilot.width_delta != x.shape[1] and not (delta_given and pilot.width_delta < x.shape[1]):
        widths = f"{pilot.width_delta} columns of δ and x {x.shape[1]}"
        raise LinscoreError(f"`pilot` has {widths}: only a given `delta` may have fewer")


def check_sign(sign: int) -> None:
    """Raises LinscoreError unless rows are added (1) or taken back (−1)."""
    if sign not in (1, -1):
        raise LinscoreError(f"`sign` is {sign}: give 1 to add rows, -1 to take them back")


def check_map(x: Tensor, b: Tensor, mean_x: Tensor, mean_delta: Tensor) -> None:
    """Raises LinscoreError unless B and both means have the width of `x`."""
    d = x.shape[-1]
    if x.ndim != 2:
        raise LinscoreError(f"`x` is {list(x.shape)}: give [n, d], a row for each token")
    if b.shape != (d, d) or not mean_x.shape == mean_delta.shape == (d,):
        shapes = ", ".join(str(list(t.shape)) for t in (b, mean_x, mean_delta))
        raise LinscoreError(
            f"`b`, `mean_x` and `mean_delta` are {shapes}: give [{d}, {d}], [{d}] and [{d}], as `x` is wide"
        )


def check_second(x: Tensor, second: Tensor, width_delta: int) -> None:
    """Raises LinscoreError unless `second` can take the second moments of `x` and a δ of `width_delta` columns."""
    shape = (x.shape[1], x.shape[1] + width_delta)
    if second.shape != shape or second.dtype is not torch.float64 or second.stride(1) != 1:
        raise LinscoreError(
            f"`second` is {list(second.shape)} {second.dtype}: give {list(shape)} float64 with contiguous rows"
        )
    if second.device != x.device:
        raise LinscoreError(f"`second` is on {second.device} and `x` on {x.device}: move one of them")
