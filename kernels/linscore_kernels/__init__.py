"""Fused second moments of token features: Triton on CUDA, plain torch elsewhere, the same operators.

Names are imported when they are first used, so that `linscore_kernels.errors` comes without torch. Imports in here are
relative: a build for the Hub is loaded under a name of its own (decisions: Kernels that load alone).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backend import BACKENDS as BACKENDS
    from .backend import choose_backend as choose_backend
    from .backend import has_triton as has_triton
    from .errors import LinscoreError as LinscoreError
    from .layer_loss.op import layer_distances as layer_distances
    from .layer_loss.op import layer_gradient as layer_gradient
    from .pilot import Pilot as Pilot
    from .residuals.op import residual_norms as residual_norms
    from .second_moments.centered_gram import CenteredGram as CenteredGram
    from .second_moments.centered_gram import centered_gram as centered_gram
    from .second_moments.op import accumulate as accumulate
    from .second_moments.op import gram as gram
    from .second_moments.op import token_stats as token_stats
    from .second_moments.symmetric_gram import symmetric_gram as symmetric_gram
    from .sums import FIGURES as FIGURES
    from .sums import HEAVY as HEAVY
    from .sums import LIGHT as LIGHT
    from .sums import NONFINITE as NONFINITE
    from .sums import SCALARS as SCALARS
    from .sums import Sums as Sums
    from .sums import TokenStats as TokenStats

_HOMES = {
    "BACKENDS": ".backend",
    "CenteredGram": ".second_moments.centered_gram",
    "FIGURES": ".sums",
    "HEAVY": ".sums",
    "LIGHT": ".sums",
    "LinscoreError": ".errors",
    "NONFINITE": ".sums",
    "Pilot": ".pilot",
    "SCALARS": ".sums",
    "Sums": ".sums",
    "TokenStats": ".sums",
    "accumulate": ".second_moments.op",
    "centered_gram": ".second_moments.centered_gram",
    "choose_backend": ".backend",
    "gram": ".second_moments.op",
    "has_triton": ".backend",
    "layer_distances": ".layer_loss.op",
    "layer_gradient": ".layer_loss.op",
    "residual_norms": ".residuals.op",
    "symmetric_gram": ".second_moments.symmetric_gram",
    "token_stats": ".second_moments.op",
}
__all__ = sorted(_HOMES)
__version__ = "0.1.0"  # of the names above and what they do, apart from linscore's (kernels/README.md)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
