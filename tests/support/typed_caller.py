"""What a type checker sees of the public names: `make check` reads this as `mypy --strict` would a caller's file."""

from __future__ import annotations

import linscore_kernels
from torch import Tensor
from typing_extensions import assert_type

import linscore


def figures(x: Tensor, y: Tensor) -> float | None:
    """Names are found, arguments are checked, and what comes back has a type."""
    moments = linscore.Moments(d=x.shape[1])
    moments.update(x, y)
    linscore.Moments(d="wide")  # type: ignore[arg-type]
    moments.upgrade(x, y)  # type: ignore[attr-defined]
    assert_type(linscore.fit_block_map(moments).residual_norms(x, y), Tensor)
    assert_type(linscore_kernels.symmetric_gram(x), Tensor)
    assert_type(linscore_kernels.centered_gram(x, y).n, int)
    assert_type(linscore.linearity(x, y).linearity_no_residual, float | None)
    return linscore.block_metrics(moments).linearity


def read(report: linscore.Report) -> list[str]:
    """The same of a report."""
    assert_type(report.blocks[0], linscore.BlockReport)
    return [warning.message for warning in report.warnings]
