"""CKA and angles between depths against float64 formulas of whole Gram matrices."""

import numpy as np
import pytest
import torch

from linscore import LinscoreError
from linscore.statistics.similarity import similarity


def stack(n: int = 300, d: int = 12) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=draw) * torch.linspace(0.1, 3, d) + 5
    y = x @ torch.randn(d, d, generator=draw) + 0.5 * torch.randn(n, d, generator=draw)
    return torch.stack((x, y, torch.randn(n, d, generator=draw), 3 * x + 1))


def hsic(k: np.ndarray, m: np.ndarray, unbiased: bool) -> float:
    n = len(k)
    if not unbiased:
        centre = np.eye(n) - 1 / n
        return float(np.trace(k @ centre @ m @ centre))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    last = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ m @ one)
    return float(np.trace(k @ m) + last)


@pytest.mark.parametrize(("name", "unbiased"), [("cka", False), ("cka_debiased", True)])
def test_cka_is_that_of_the_gram_matrices(name, unbiased):
    states = stack()
    grams = [x @ x.T for x in states.double().numpy()]
    found = getattr(similarity(states), name)
    for i, k in enumerate(grams):
        for j, m in enumerate(grams):
            root = np.sqrt(hsic(k, k, unbiased) * hsic(m, m, unbiased))
            assert found[i, j].item() == pytest.approx(hsic(k, m, unbiased) / root, abs=2e-6)


def test_debiased_cka_of_unrelated_states_is_none_however_few_the_tokens():
    few = torch.randn(2, 40, 200, generator=torch.Generator().manual_seed(0))
    found = similarity(few)
    assert found.cka[0, 1] > 0.8
    assert abs(found.cka_debiased[0, 1]) < 0.1


def test_angles_are_means_over_tokens():
    states = stack()
    found = similarity(states).angular_distance
    x, y = states.double()[:2].numpy()
    cosines = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert found[0, 1].item() == pytest.approx(np.arccos(cosines).mean() / np.pi, rel=1e-5)
    assert found[0, 1] == found[1, 0]
    assert found.diagonal().tolist() == [0.0] * 4


def test_what_cannot_be_compared_is_said():
    with pytest.raises(LinscoreError, match="of four tokens or more"):
        similarity(torch.zeros(2, 3, 4))
    with pytest.raises(LinscoreError, match="not finite"):
        similarity(torch.full((2, 5, 3), torch.inf))
