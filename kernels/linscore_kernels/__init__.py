"""Fused second moments of token features: Triton on CUDA, plain torch elsewhere, the same operators.

Names are imported when they are first used, so that `linscore_kernels.errors` comes without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linscore_kernels.backend import BACKENDS as BACKENDS
    from linscore_kernels.backend import choose_backend as choose_backend
    from linscore_kernels.backend import has_triton as has_triton
    from linscore_kernels.errors import LinscoreError as LinscoreError
    from linscore_kernels.layer_loss.op import layer_distances as layer_distances
    from linscore_kernels.layer_loss.op import layer_gradient as layer_gradient
    from linscore_kernels.pilot import Pilot as Pilot
    from linscore_kernels.residuals.op import residual_norms as residual_norms
    from linscore_kernels.second_moments.centered_gram import CenteredGram as CenteredGram
    from linscore_kernels.second_moments.centered_gram import centered_gram as centered_gram
    from linscore_kernels.second_moments.op import accumulate as accumulate
    from linscore_kernels.second_moments.op import gram as gram
    from linscore_kernels.second_moments.op import token_stats as token_stats
    from linscore_kernels.sums import FIGURES as FIGURES
    from linscore_kernels.sums import HEAVY as HEAVY
    from linscore_kernels.sums import LIGHT as LIGHT
    from linscore_kernels.sums import NONFINITE as NONFINITE
    from linscore_kernels.sums import SCALARS as SCALARS
    from linscore_kernels.sums import Sums as Sums
    from linscore_kernels.sums import TokenStats as TokenStats

_HOMES = {
    "BACKENDS": "linscore_kernels.backend",
    "CenteredGram": "linscore_kernels.second_moments.centered_gram",
    "FIGURES": "linscore_kernels.sums",
    "HEAVY": "linscore_kernels.sums",
    "LIGHT": "linscore_kernels.sums",
    "LinscoreError": "linscore_kernels.errors",
    "NONFINITE": "linscore_kernels.sums",
    "Pilot": "linscore_kernels.pilot",
    "SCALARS": "linscore_kernels.sums",
    "Sums": "linscore_kernels.sums",
    "TokenStats": "linscore_kernels.sums",
    "accumulate": "linscore_kernels.second_moments.op",
    "centered_gram": "linscore_kernels.second_moments.centered_gram",
    "choose_backend": "linscore_kernels.backend",
    "gram": "linscore_kernels.second_moments.op",
    "has_triton": "linscore_kernels.backend",
    "layer_distances": "linscore_kernels.layer_loss.op",
    "layer_gradient": "linscore_kernels.layer_loss.op",
    "residual_norms": "linscore_kernels.residuals.op",
    "token_stats": "linscore_kernels.second_moments.op",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'linscore_kernels' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
