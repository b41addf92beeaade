"""A fitted map in the form in which a model holds it, see `LinearMap`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from linscore.statistics.affine import AffineMap
from linscore.statistics.maps import FittedMap


def factors(fitted: AffineMap) -> dict[str, Tensor]:
    """What makes up B, as `LinearMap` names it."""
    if isinstance(fitted, FittedMap) and fitted.factors is not None:
        return dict(zip(("down", "up"), fitted.factors, strict=True))
    if isinstance(fitted, FittedMap) and fitted.kind == "diagonal":
        return {"scale": fitted.b.diagonal()}
    if isinstance(fitted, FittedMap) and fitted.kind == "mean":
        return {}
    return {"weight": fitted.b}


def described(fitted: AffineMap) -> dict[str, Any]:
    """What a configuration says of the map, as `LinearMap.describe` does."""
    found = factors(fitted)
    return {"factors": list(found), "rank": found["down"].shape[1] if "down" in found else None}
