"""A δ that is narrower than x: its moments, their file, and the maps fitted to them."""

from __future__ import annotations

import pytest
import torch
from linscore_kernels import HEAVY, LIGHT
from narrow_delta import assert_close, numpy_of, sample
from sklearn.linear_model import Ridge

from linscore import LinscoreError, Moments, block_metrics
from linscore.statistics import figures as metrics
from linscore.statistics.maps import fit, fit_block_map
from linscore.statistics.moments_file import load_moments, save_moments
from linscore.statistics.ridge import Regression

pytestmark = pytest.mark.usefixtures("one_thread")


def moments_of(x: torch.Tensor, delta: torch.Tensor, folds: int = 1, **options: str) -> Moments:
    moments = Moments(x.shape[1], delta.shape[1], folds=folds, **options)
    for fold, (x_part, delta_part) in enumerate(zip(x.chunk(folds), delta.chunk(folds), strict=True)):
        moments.update(x_part, delta=delta_part, fold=fold)
    return moments


@pytest.mark.parametrize(("precision", "relative"), [("fast", 3e-6), ("exact", 1e-12)])
def test_heavy_rows_folds_and_merged_runs_lose_no_digit(precision, relative):
    x, delta = sample(900, 24, 7)
    heavy = torch.tensor([3, 500, 899])
    x[heavy[:2]] *= 800
    delta[heavy[2]] = 1e4  # δ alone makes it heavy
    parts = [Moments(24, 7, folds=3, precision=precision) for _ in range(2)]
    for fold in range(3):
        for part, start in zip(parts, (300 * fold, 300 * fold + 120), strict=True):
            stop = start + (120 if part is parts[0] else 180)
            status = part.update(x[start:stop], delta=delta[start:stop], fold=fold)
            assert (status == HEAVY).nonzero()[:, 0].tolist() == [
                i - start for i in heavy.tolist() if start <= i < stop
            ]
            assert (status != HEAVY).eq(status == LIGHT).all()
    whole = parts[0].merge(parts[1])
    assert [whole.rows(fold) for fold in range(3)] == [300] * 3
    assert whole.heavy_rows == 3
    for folds in ([0, 1, 2], [1]):
        rows = torch.cat([torch.arange(300 * fold, 300 * fold + 300) for fold in folds])
        for kept in (rows, rows[~torch.isin(rows, heavy)]):
            got = metrics.centered(whole, folds, heavy=kept is rows)
            x_c, delta_c = (t - t.mean(0) for t in numpy_of(x[kept], delta[kept]))
            assert_close(got.c_xx, x_c.T @ x_c, relative)
            assert_close(got.c_xd, x_c.T @ delta_c, relative)
            assert got.t_delta == pytest.approx((delta_c**2).sum(), rel=relative)


def test_a_file_keeps_the_width_and_can_be_extended(tmp_path):
    x, delta = sample(300, 12, 4)
    delta[5] = 1e5  # heavy
    moments = moments_of(x, delta, folds=2, precision="exact")
    save_moments(tmp_path / "moments.safetensors", {"block.0": moments, "empty": Moments(3, 2)})
    loaded = load_moments(tmp_path / "moments.safetensors")[0]
    assert (loaded["empty"].width_delta, loaded["block.0"].width_delta) == (2, 4)
    for one, other in zip(
        moments.light + moments.heavy, loaded["block.0"].light + loaded["block.0"].heavy, strict=True
    ):
        assert (one is None) == (other is None)
        assert one is None or all(
            torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
        )
    loaded["block.0"].update(x, delta=delta)
    assert loaded["block.0"].merge(moments).total().n == 900


def test_a_ridge_map_is_scikit_learns_on_standardized_features():
    x, delta = sample(400, 20, 6)
    moments = moments_of(x, delta, precision="exact")
    with pytest.raises(LinscoreError, match="fit_fusion"):
        fit_block_map(moments)
    fitted = fit(Regression.of(moments), ridge=0.1)
    x64, delta64 = numpy_of(x, delta)
    scale = x64.std(0)
    oracle = Ridge(0.1 * 400).fit((x64 - x64.mean(0)) / scale, delta64).coef_.T / scale[:, None]
    assert_close(fitted.b, oracle, 1e-9)


X, DELTA = sample(30, 8, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Moments(4, 0), "`width_delta` is 0: give 1 or more"),
        (lambda: Moments(4, 5), "give 4 or less"),
        (lambda: Moments(8, 3).update(X, X), "give `delta` in place of `y`"),
        (lambda: Moments(8, 3).update(X, delta=X), r"`delta` \[\.\.\., 3\]"),
        (lambda: Moments(8).update(X, delta=DELTA), r"`delta` \[\.\.\., 8\]"),
        (lambda: Moments(8, 3).update(X, delta=DELTA[:9]), "of one shape"),
        (lambda: Moments(8, 3).merge(Moments(8)), "do not add to width 8 .δ: 3. in 1 folds"),
        (lambda: block_metrics(moments_of(X, DELTA)), "scores need moments of"),
    ],
)
def test_what_cannot_be_is_refused_with_a_line(call, message):
    with pytest.raises(LinscoreError, match=message):
        call()
