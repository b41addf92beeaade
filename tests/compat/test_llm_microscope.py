"""LLM-Microscope's functions under its names, against its formulas written out in NumPy's float64."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from tiny_models import tiny

from linscore.compat import llm_microscope as theirs


def states(n=600, d=16):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=draw) * torch.linspace(0.2, 2, d) + 3
    return x, x + 0.3 * torch.tanh(x @ torch.randn(d, d, generator=draw)) + 0.1 * torch.randn(n, d, generator=draw)


def explained(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    return 1 - ((x @ np.linalg.lstsq(x, y, rcond=None)[0] - y) ** 2).sum()


def test_similarities_are_the_in_sample_scores():
    x, y = states()
    a, b = x.double().numpy(), y.double().numpy()
    assert theirs.procrustes_similarity(x, y) == pytest.approx(explained(a, b), abs=1e-6)
    assert theirs.procrustes_similarity_centered(x, y) == pytest.approx(explained(a, b - a), abs=1e-6)
    wanted = a @ np.linalg.lstsq(a, b, rcond=None)[0]
    np.testing.assert_allclose(theirs.get_est_svd(x, y).numpy(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fast", [False, True])
def test_anisotropy_is_the_share_of_the_largest_eigenvalue(fast):
    x, _ = states()
    values = np.linalg.svd(x.double().numpy() - x.double().numpy().mean(0), compute_uv=False) ** 2
    assert theirs.calculate_anisotropy_torch(x, fast) == pytest.approx(
        values[0] / values.sum(), rel=1e-4 if fast else 1e-6
    )


def test_the_dimension_is_that_of_their_regression():
    x, _ = states()
    x = torch.cat((x, x[:7]))  # points that are there twice count as theirs do
    points = x.double().numpy() - x.double().numpy().mean(0)
    points /= np.linalg.norm(points, axis=1).mean()
    apart = cdist(points, points)
    np.fill_diagonal(apart, np.inf)
    first, second = np.sort(apart, axis=1)[:, :2].T
    ratios = np.sort(np.where(first < 1e-8, -1, second / np.maximum(first, 1e-8)))
    useless = int((ratios <= 1 + 1e-8).sum())
    n = len(ratios) - useless
    rank = np.arange(1 + useless, n + 1 + useless) / (n + useless)
    logs, rest = np.log(ratios[useless:])[: n // 5], -np.log(1 - rank[: n // 5])
    assert theirs.intrinsic_dimension(x) == pytest.approx(logs @ rest / (logs @ logs), rel=1e-3)


def test_the_lens_is_the_head_on_every_hidden_state():
    class Words:
        def __call__(self, text, return_tensors):
            assert return_tensors == "pt"
            return {"input_ids": torch.tensor([[int(word) for word in text.split()]])}

        def decode(self, ids):
            return str(ids[0])

    model = tiny("llama")
    predictions, losses, words = theirs.logit_lens(model, Words(), "5 9 11 30 7")
    assert predictions.shape == losses.shape == (4, 4)
    with torch.no_grad():
        hidden = model(torch.tensor([[5, 9, 11, 30, 7]]), output_hidden_states=True).hidden_states
        logits = model.lm_head(hidden[1])[0, 2].double().numpy()
    assert predictions[1, 2] == logits.argmax()
    assert losses[1, 2] == pytest.approx(np.log(np.exp(logits).sum()) - logits.max(), rel=1e-5)
    assert words[1][2] == str(logits.argmax())


def test_weights_are_normalized_as_is_asked():
    weights = np.array([[1.0, 2.0, 3.0], [3.0, 6.0, 3.0]])
    np.testing.assert_allclose(theirs.normalize_weights(weights, "global"), (weights - 1) / 5)
    np.testing.assert_allclose(theirs.normalize_weights(weights, "token-wise"), [[0, 0, 0], [1, 1, 0]])
    np.testing.assert_allclose(theirs.normalize_weights(weights, "sentence-wise"), [[0, 0.5, 1], [0, 1, 0]])
