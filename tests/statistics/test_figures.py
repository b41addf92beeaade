from functools import cache

import pytest
import torch
from oracles import heldout_scores, linear_cka, procrustes, states, svd_scores
from sklearn.linear_model import LinearRegression

import linscore
from linscore.statistics.centered import Centered
from linscore.statistics.figures import BlockMetrics, block_metrics
from linscore.statistics.moments import Moments

BOUNDS = {  # (with, without residual): what the project promises against a float64 SVD
    (torch.float32, "fast"): (1e-5, 1e-5),
    (torch.bfloat16, "fast"): (1e-4, 1e-3),
    (torch.float32, "exact"): (1e-6, 1e-6),
    (torch.bfloat16, "exact"): (1e-6, 1e-6),
}


def measure(x: torch.Tensor, y: torch.Tensor, folds: torch.Tensor, precision: str) -> BlockMetrics:
    moments, after = (Moments(x.shape[1], folds=int(folds.max()) + 1, precision=precision) for _ in range(2))
    for fold in folds.unique().tolist():
        rows = folds == fold
        moments.update(x[rows], y[rows], fold=fold)
        after.update(y[rows], y[rows], fold=fold)
    return block_metrics(moments, after=after)


def halves(n: int, folds: int = 2) -> torch.Tensor:
    return torch.arange(n) * folds // n


@cache
def rows_and_scores(dtype: torch.dtype):
    """States, their folds, and what the oracles say of them, which takes longer than what is tested."""
    (x, y), folds = (t.to(dtype) for t in states(6000, 48)), halves(6000)
    return x, y, folds, (*svd_scores(x, y), *heldout_scores(x, y, folds), procrustes(x, y), linear_cka(x, y))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "precision"), list(BOUNDS))
def test_every_score_is_the_float64_svds_within_the_promise(dtype, precision):
    x, y, folds, expected = rows_and_scores(dtype)
    with_residual, without = BOUNDS[dtype, precision]
    got = measure(x, y, folds, precision)
    score, score_no_residual, heldout, heldout_no_residual, by_rotation, by_kernel = expected
    assert got.linearity == pytest.approx(score, abs=with_residual)
    assert got.linearity_no_residual == pytest.approx(score_no_residual, abs=without)
    assert got.linearity_heldout == pytest.approx(heldout, abs=with_residual)
    assert got.linearity_no_residual_heldout == pytest.approx(heldout_no_residual, abs=without)
    assert got.procrustes == pytest.approx(by_rotation, abs=with_residual)
    assert got.cka == pytest.approx(by_kernel, abs=with_residual)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("precision", "with_residual", "without"), [("fast", 1e-4, 1e-3), ("exact", 1e-5, 1e-5)])
def test_outlier_features_and_sink_tokens_leave_the_scores_right(dtype, precision, with_residual, without):
    x, y = states(8000, 64)
    delta = y - x
    x[:, ::16] += 100 * x[:, ::16].std()  # outlier features: mean = 100 σ
    sinks = torch.arange(0, 8000, 500)
    x[sinks] = 800 * (x[sinks[0]] + 0.01 * x[sinks])  # sink tokens, 800 times the rest, all alike
    x, y = x.to(dtype), (x + delta).to(dtype)
    got = measure(x, y, halves(8000), precision)
    score, score_no_residual = svd_scores(x, y)
    assert got.linearity == pytest.approx(score, abs=with_residual)
    assert got.linearity_no_residual == pytest.approx(score_no_residual, abs=without)
    light = torch.ones(8000, dtype=torch.bool)
    light[sinks] = False
    assert got.heavy_rows == len(sinks)
    assert got.without_heavy is not None
    score, score_no_residual = svd_scores(x[light], y[light])
    assert got.without_heavy.linearity == pytest.approx(score, abs=with_residual)
    assert got.without_heavy.linearity_no_residual == pytest.approx(score_no_residual, abs=without)


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_heldout_figures_equal_a_direct_fit_and_test(folds):
    x, y = states(1500, 40)
    labels = halves(1500, folds)
    got = measure(x, y, labels, "exact")
    heldout, heldout_no_residual = heldout_scores(x, y, labels)
    assert got.linearity_heldout == pytest.approx(heldout, abs=1e-8)
    assert got.linearity_no_residual_heldout == pytest.approx(heldout_no_residual, abs=1e-8)


@pytest.mark.parametrize(("folds", "centrings"), [(2, 3), (3, 7)])
def test_nothing_is_centred_twice(folds, centrings, monkeypatch):
    moments, seen = Moments(4, folds=folds), []
    for fold in range(folds):
        moments.update(*states(50, 4), fold=fold)
    of = Centered.of
    monkeypatch.setattr(Centered, "of", lambda *cells: seen.append(cells) or of(*cells))
    block_metrics(moments)
    assert len(seen) == centrings  # all rows, and of two folds each once, of more each and all others


def test_the_spread_is_the_difference_of_two_folds_and_the_deviation_of_more():
    x, y = states(1200, 16)
    singles = []
    for fold in range(3):
        labels = halves(1200, 3)
        test = labels == fold
        from sklearn.linear_model import LinearRegression

        delta = (y.double() - x.double()).numpy()
        fitted = LinearRegression().fit(x[~test].double().numpy(), delta[~test])
        error = ((delta[test] - fitted.predict(x[test].double().numpy())) ** 2).sum()
        centred = y[test].double() - y[test].double().mean(0)
        singles.append(1 - error / centred.square().sum().item())
    got = measure(x, y, halves(1200, 3), "exact")
    assert got.linearity_heldout_spread == pytest.approx(torch.tensor(singles, dtype=torch.float64).std().item())
    two = measure(x, y, halves(1200), "exact")
    scores = []
    for fold in (0, 1):
        one = halves(1200) == fold
        swapped = Moments(16, folds=2, precision="exact")
        swapped.update(x[~one], y[~one], fold=0)
        scores.append(heldout_of(x, y, one))
    assert two.linearity_heldout_spread == pytest.approx(abs(scores[0] - scores[1]), abs=1e-9)


def heldout_of(x: torch.Tensor, y: torch.Tensor, test: torch.Tensor) -> float:
    from sklearn.linear_model import LinearRegression

    delta = (y.double() - x.double()).numpy()
    fitted = LinearRegression().fit(x[~test].double().numpy(), delta[~test])
    error = ((delta[test] - fitted.predict(x[test].double().numpy())) ** 2).sum()
    return 1 - error / (y[test].double() - y[test].double().mean(0)).square().sum().item()


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_noise_with_as_many_rows_as_features_scores_one_in_sample_and_nothing_held_out(precision):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 64, 64, generator=generator)
    got = measure(x, y, halves(64), precision)
    heldout, _ = heldout_scores(x, y, halves(64))
    assert got.linearity == pytest.approx(1, abs=1e-5)
    assert got.linearity_heldout <= 0
    assert got.linearity_heldout == pytest.approx(heldout, abs=1e-8 if precision == "exact" else 1e-3)


def test_unrelated_states_score_what_the_report_says_they_would():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(20000, 8, generator=generator), 0.9 * torch.randn(20000, 8, generator=generator)
    got = measure(x, y, halves(20000), "fast")
    assert got.linearity == pytest.approx(0, abs=2e-3)
    assert got.linearity_no_residual == pytest.approx(got.linearity_no_residual_unrelated, abs=1e-2)


def test_procrustes_is_never_above_linearity():
    for seed in range(5):
        got = measure(*states(400, 12, seed), halves(400), "exact")
        assert got.procrustes <= got.linearity + 1e-12


def test_shape_of_the_cloud_equals_its_definitions():
    x, y = states(2000, 24)
    got = measure(x, y, halves(2000), "exact")
    values = torch.linalg.svdvals(x.double() - x.double().mean(0)).square()
    shares = values / values.sum()
    assert got.anisotropy == pytest.approx(shares[0].item())
    assert got.effective_rank == pytest.approx((-(shares * shares.log()).sum()).exp().item())
    assert got.participation_ratio == pytest.approx((values.sum().square() / values.square().sum()).item())


def test_a_block_that_adds_nothing_is_linear_and_has_no_score_without_residual():
    x, _ = states(300, 8)
    got = measure(x, x.clone(), halves(300), "fast")
    assert got.linearity == 1
    assert got.linearity_no_residual is None
    assert got.linearity_no_residual_heldout is None


def test_one_fold_leaves_the_heldout_figures_empty():
    got = measure(*states(300, 8), halves(300, 1), "fast")
    assert got.linearity_heldout is got.linearity_heldout_spread is got.linearity_no_residual_heldout is None


def test_cka_is_left_empty_where_the_next_state_saw_other_rows():
    x, y = states(300, 8)
    moments, after = Moments(8), Moments(8)
    moments.update(x, y)
    after.update(y[1:], y[1:])
    assert block_metrics(moments, after=after).cka is None


def test_too_few_rows_are_refused():
    with pytest.raises(linscore.LinscoreError, match="0 rows"):
        block_metrics(Moments(4))


def test_residual_norms_of_the_blocks_map_are_scikit_learns_residuals():
    x, y = states(2000, 24)
    moments = Moments(24, folds=2, precision="exact")
    moments.update(x[:900], y[:900], fold=0)
    moments.update(x[900:], y[900:], fold=1)
    got = linscore.fit_block_map(moments).residual_norms(x, y, precision="exact")
    delta = (y - x).double().numpy()
    left = delta - LinearRegression().fit(x.double().numpy(), delta).predict(x.double().numpy())
    torch.testing.assert_close(got, torch.from_numpy(left).norm(dim=1), rtol=1e-5, atol=0)
