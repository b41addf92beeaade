"""The operators as torch sees them: schemas, fakes, torch.compile."""

import pytest
import torch
from linscore_kernels import (
    FIGURES,
    LinscoreError,
    Pilot,
    accumulate,
    centered_gram,
    gram,
    has_triton,
    residual_norms,
    token_stats,
)
from oracles import states
from torch.library import opcheck

BACKENDS = ["eager", pytest.param("triton", marks=pytest.mark.skipif(not has_triton(), reason="no triton"))]
PRECISIONS = ["fast", "exact"]


def flat(pilot: Pilot) -> tuple:
    return pilot.centers, pilot.scales, len(pilot.center_x), pilot.limit_x, pilot.limit_delta


def pair(n: int = 40, d: int = 32, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, Pilot]:
    x, y = (t.to(dtype) for t in states(n, d))
    pilot = Pilot.choose(x, y)
    assert pilot is not None
    return x, y, pilot


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [None, torch.tensor([3, 1, 8])])
def test_schemas_and_fakes_of_picked_rows_are_what_torch_asks_for(backend, precision, rows):
    x, y, pilot = pair()
    ops = torch.ops.linscore
    opcheck(ops.token_stats, (x, y, rows, *flat(pilot), False, precision, backend))
    second = torch.zeros(32, 64, dtype=torch.float64)
    opcheck(ops.accumulate, (x, y, second, rows, *flat(pilot), False, precision, 1, backend))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_schemas_and_fakes_of_products_are_what_torch_asks_for(backend, precision):
    x, y, pilot = pair()
    stats = token_stats(x, y, pilot=pilot, precision=precision, backend=backend)
    opcheck(torch.ops.linscore.gram, (stats.operands, torch.zeros(32, 64, dtype=torch.float64), backend))
    opcheck(torch.ops.linscore.centered_gram, (x, y, None, True, precision, backend))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_fake_knows_a_delta_that_is_narrower_than_x(backend):
    x, _, _ = pair(20, 16)
    delta, rows, second = x[:, :7] * 0.1, torch.tensor([3, 1, 8]), torch.zeros(16, 23, dtype=torch.float64)
    pilot = Pilot.choose(x, None, delta)
    opcheck(torch.ops.linscore.accumulate, (x, delta, second, rows, *flat(pilot), True, "fast", 1, backend))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiling_a_caller_leaves_its_graph_whole(backend):
    x, y, pilot = pair()
    second = torch.zeros(32, 64, dtype=torch.float64)

    def caller(x, y, second):
        sums = accumulate(x, x + y, None, second, pilot=pilot, backend=backend)
        whole = centered_gram(x, y, backend=backend)
        norms = residual_norms(x, y, b=torch.eye(32), mean_x=x[0], mean_delta=y[0], backend=backend)
        stats = token_stats(x, y, pilot=pilot, backend=backend)
        out = torch.zeros(32, 64, dtype=torch.float64)
        gram(stats.operands, out, backend=backend)
        return sums.scalars * 2, whole.c_xx + 1, norms.mean(), out.triu()

    expected_second = second.clone()
    expected = caller(x, y, expected_second)
    compiled = torch.compile(caller, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y, second), expected)
    torch.testing.assert_close(second.triu(), expected_second.triu())
    assert second.any()


def test_figures_come_in_the_order_that_is_promised():
    x, y, pilot = pair()
    stats = token_stats(x, y, pilot=pilot)
    assert len(stats.figures) == len(FIGURES)
    torch.testing.assert_close(stats.figures[FIGURES.index("norm_delta")], (y - x).norm(dim=1))
    torch.testing.assert_close(stats.figures[FIGURES.index("q_delta")], (y - x - pilot.center_delta).square().sum(1))


X = torch.ones(8, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": X}, "either `y` or `delta`"),
        ({"y": None}, "either `y` or `delta`"),
        ({"y": torch.zeros(8, 16)}, r"both \[n, d\]"),
        ({"x": X.int()}, "convert it"),
        ({"rows": torch.zeros(3, dtype=torch.int32)}, "int64 indices"),
        ({"precision": "exakt"}, "choose fast or exact"),
        ({"second": torch.zeros(32, 64)}, "float64"),
        ({"x": X[:0], "y": X[:0]}, "no row"),
        ({"x": X[:, :5], "y": X[:, :5]}, "pilot"),
        ({"backend": "cudnn"}, "choose auto"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_advice(change, message):
    pilot = Pilot.choose(X, X + torch.rand(8, 32))
    arguments = {"x": X, "y": X, "delta": None, "second": torch.zeros(32, 64, dtype=torch.float64), "pilot": pilot}
    with pytest.raises(LinscoreError, match=message):
        accumulate(**arguments | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": X, "delta": None}, "only a given `delta` may have fewer"),
        ({"delta": X}, r"`delta` \[n, 5\]"),
        ({"second": torch.zeros(32, 64, dtype=torch.float64)}, r"\[32, 37\] float64"),
        ({"x": X[:, :5]}, "choose it from rows of `x`"),
    ],
)
def test_a_narrower_delta_that_does_not_fit_is_refused_with_advice(change, message):
    delta, second = X[:, :5], torch.zeros(32, 37, dtype=torch.float64)
    arguments = {"x": X, "y": None, "delta": delta, "second": second, "pilot": Pilot.choose(X, None, delta)}
    with pytest.raises(LinscoreError, match=message):
        accumulate(**arguments | change)
