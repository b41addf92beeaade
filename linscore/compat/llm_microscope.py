"""The functions of LLM-Microscope (0.0.7 on PyPI, and the notebook of its repository) under their names.

    from linscore.compat.llm_microscope import intrinsic_dimension, procrustes_similarity

Figures are theirs, by this package's means. `import llm_microscope` itself fails there (it takes `logit_lens` for a top
module), and its `procrustes_similarity_centered` returns a type instead of a number. What their names hide: the two
"Procrustes similarities" are the in-sample linearity with and without residual, see `linscore.linearity` for held-out
ones; `logit_lens` leaves out the final norm and gives the cost of the likeliest token, see `linscore lens` for both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linscore.errors import LinscoreError, one_of
from linscore.statistics.figures import linearity
from linscore.statistics.intrinsic_dimension import nearest_two

__all__ = [
    "calculate_anisotropy_torch",
    "get_est_svd",
    "intrinsic_dimension",
    "logit_lens",
    "normalize_weights",
    "procrustes_similarity",
    "procrustes_similarity_centered",
]

EPS = 1e-8


def calculate_anisotropy_torch(emb: Tensor, fast: bool = False, pm_n_iters: int = 100) -> float:
    """λ_max/Σλ of the covariance of embeddings `[n, d]`; `fast` by the power method, `pm_n_iters` steps of it.

    Examples:
        >>> from linscore.compat.llm_microscope import calculate_anisotropy_torch
        >>> abs(calculate_anisotropy_torch(x) - calculate_anisotropy_torch(x, fast=True)) < 0.01
        True
    """
    centred = emb.double() - emb.double().mean(0, keepdim=True)
    total = centred.square().sum()
    if not total > 0:
        raise LinscoreError("all embeddings are alike: they have no anisotropy")
    if not fast:
        return float(torch.linalg.eigvalsh(centred.T @ centred)[-1] / total)
    vector = torch.randn(centred.shape[1], dtype=torch.float64, device=emb.device)
    for _ in range(pm_n_iters):
        vector = centred.T @ (centred @ (vector / vector.norm()))
    return float(vector.norm() / total)


def intrinsic_dimension(emb: Tensor, device: Any = None, debug: bool = False, reduction_factor: int = 5) -> float:
    """TwoNN of embeddings `[n, d]`, from the first 1/`reduction_factor` of the ratios.

    `device` and `debug` are theirs, and change nothing. `linscore.statistics.intrinsic_dimension` takes 9 of 10 ratios,
    as its authors advise, and gives a standard error.

    Examples:
        >>> from linscore.compat.llm_microscope import intrinsic_dimension
        >>> 10 < intrinsic_dimension(x) < 22  # of 16 independent features
        True
    """
    del device, debug
    nearest, second = nearest_two(emb).T
    ratios = torch.where(nearest < EPS, -1.0, second / nearest.clamp_min(EPS)).sort().values
    useless = int((ratios <= 1 + EPS).sum())
    ratios = ratios[useless:]
    n = len(ratios)
    used = min(n // reduction_factor, n - 1)
    if used < 1:
        raise LinscoreError(f"{n} of the embeddings are apart: give more")
    rank = torch.arange(1 + useless, n + 1 + useless, dtype=torch.float64) / (n + useless)
    log_ratio, log_rest = ratios.log()[:used], -torch.log1p(-rank)[:used]
    return float((log_ratio * log_rest).sum() / log_ratio.square().sum())


def get_est_svd(X: Tensor, Y: Tensor) -> Tensor:
    """X A, A the least-squares solution of X A ≈ Y `[n, d]`, of least norm.

    Examples:
        >>> from linscore.compat.llm_microscope import get_est_svd
        >>> torch.allclose(get_est_svd(x, 2 * x), 2 * x, atol=1e-5)
        True
    """
    solution: Tensor = torch.linalg.lstsq(X.double().cpu(), Y.double().cpu(), driver="gelsd").solution
    return (X.double().cpu() @ solution).to(Y)


def procrustes_similarity(x: Tensor, y: Tensor) -> float:
    """1 − min_A ‖X̃A − Ỹ‖² of `[n, d]`: the in-sample linearity.

    Examples:
        >>> from linscore.compat.llm_microscope import procrustes_similarity
        >>> abs(procrustes_similarity(x, y) - linscore.linearity(x, y).linearity) < 1e-5
        True
    """
    return _defined(linearity(x, y, folds=1, precision="exact").linearity)


def procrustes_similarity_centered(x: Tensor, y0: Tensor) -> float:
    """The same for y0 − x: the in-sample linearity without residual.

    Examples:
        >>> from linscore.compat.llm_microscope import procrustes_similarity_centered
        >>> abs(procrustes_similarity_centered(x, y) - linscore.linearity(x, y).linearity_no_residual) < 1e-5
        True
    """
    return _defined(linearity(x, y0, folds=1, precision="exact").linearity_no_residual)


def _defined(score: float | None) -> float:
    return float("nan") if score is None else score


def logit_lens(model: Any, tokenizer: Any, text: str) -> tuple[Tensor, NDArray[np.float32], list[list[str]]]:
    """The likeliest next token at every hidden state by the head alone, its cost in nats, and its text.

    Returns:
        Token ids `[L + 1, T − 1]`, −log of their probability of the same shape, and the tokens as text.

    Examples:
        >>> from linscore.compat.llm_microscope import logit_lens
        >>> ids, costs, words = logit_lens(model, tokenizer, "def add(first, second):")
        >>> ids.shape == costs.shape, len(words) == 6 + 1
        (True, True)
    """
    input_ids = tokenizer(text, return_tensors="pt")["input_ids"].to(model.device)
    with torch.no_grad():
        states = model(input_ids, output_hidden_states=True).hidden_states
        logs = torch.stack([model.lm_head(state)[0, :-1].float().log_softmax(-1) for state in states])
    best = logs.max(-1)
    decoded = [[tokenizer.decode([token]) for token in row] for row in best.indices.tolist()]
    return best.indices.cpu(), (-best.values).cpu().numpy(), decoded


def normalize_weights(weights: NDArray[Any], normalization_type: str) -> NDArray[Any]:
    """Weights `[layers, tokens]` from 0 to 1: "global", or each "token-wise" or "sentence-wise" (each layer).

    Examples:
        >>> import numpy
        >>> from linscore.compat.llm_microscope import normalize_weights
        >>> normalize_weights(numpy.array([[1.0, 3.0], [2.0, 5.0]]), "global").tolist()
        [[0.0, 0.5], [0.25, 1.0]]
    """
    one_of("normalization_type", normalization_type, ("global", "token-wise", "sentence-wise"))
    axis = {"global": None, "token-wise": 0, "sentence-wise": 1}[normalization_type]
    low, high = weights.min(axis=axis, keepdims=True), weights.max(axis=axis, keepdims=True)
    return np.asarray((weights - low) / np.where(high > low, high - low, 1))
