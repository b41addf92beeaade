"""Fused second moments of token features: Triton on CUDA, plain torch elsewhere, the same operators."""

from linscore_kernels.backend import BACKENDS, choose_backend, has_triton
from linscore_kernels.layer_loss.op import layer_distances, layer_gradient
from linscore_kernels.pilot import Pilot
from linscore_kernels.second_moments.centered_gram import CenteredGram, centered_gram
from linscore_kernels.second_moments.op import accumulate, gram, residual_norms, token_stats
from linscore_kernels.sums import FIGURES, HEAVY, LIGHT, NONFINITE, SCALARS, Sums, TokenStats

__all__ = [
    "BACKENDS",
    "FIGURES",
    "HEAVY",
    "LIGHT",
    "NONFINITE",
    "SCALARS",
    "CenteredGram",
    "Pilot",
    "Sums",
    "TokenStats",
    "accumulate",
    "centered_gram",
    "choose_backend",
    "gram",
    "has_triton",
    "layer_distances",
    "layer_gradient",
    "residual_norms",
    "token_stats",
]
