"""Fused second moments of token features: Triton on CUDA, plain torch elsewhere, the same signatures."""

from linscore_kernels.backend import BACKENDS, choose_backend, has_triton, load_backend
from linscore_kernels.centered_gram import CenteredGram, centered_gram
from linscore_kernels.stats import HEAVY, LIGHT, NONFINITE, SCALARS, Pilot, Sums

__all__ = [
    "BACKENDS",
    "HEAVY",
    "LIGHT",
    "NONFINITE",
    "SCALARS",
    "CenteredGram",
    "Pilot",
    "Sums",
    "centered_gram",
    "choose_backend",
    "has_triton",
    "load_backend",
]
