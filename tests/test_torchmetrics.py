"""The metric for torchmetrics against `Moments` of the same rows: in batches, collections, checkpoints, processes."""

import copy
import pickle

import pytest
import torch
from oracles import svd_scores
from shared_metric import D, batches, moments_of
from torch import nn

from linscore import LinscoreError, Moments

pytest.importorskip("torchmetrics", reason="the extra torchmetrics is not installed")
from torchmetrics import MetricCollection
from torchmetrics.regression import MeanSquaredError

from linscore.torchmetrics import BlockLinearity


def all_rows(given) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.cat([one.reshape(-1, D) for one in side]) for side in zip(*given, strict=True))


def exactly(value: float):
    return pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    "figure", ["linearity", "linearity_no_residual", "block_influence", "effective_rank", "norm_x"]
)
def test_its_figure_is_that_of_moments(figure):
    metric, given = BlockLinearity(D, figure=figure), batches()
    for x, y in given:
        metric.update(x, y)
    found = metric.compute()
    assert (found.shape, found.dtype) == ((), torch.float64)
    assert found.item() == exactly(getattr(moments_of(given).compute(), figure))


def test_forward_gives_the_figure_of_the_batch_and_adds_it():
    metric, given = BlockLinearity(D), batches()
    for x, y in given:
        assert metric(x, y).item() == exactly(moments_of([(x, y)]).compute().linearity)
    assert metric.compute().item() == exactly(moments_of(given).compute().linearity)
    assert metric.compute().item() == pytest.approx(svd_scores(*all_rows(given))[0], abs=1e-10)


def test_masks_folds_and_float32_are_those_of_moments():
    metric = BlockLinearity(D, figure="linearity_heldout", folds=2)
    expected, mask = Moments(D, folds=2), torch.arange(60) < torch.tensor([[60], [45]])
    for number, (x, y) in enumerate(batches()):
        for one in (metric, expected):
            one.update(x.float(), y.float(), mask, fold=number % 2)
    assert metric.compute().item() == exactly(expected.compute().linearity_heldout)
    assert metric.moments.rows(0) == 2 * (60 + 45)


def test_a_collection_shares_one_state_and_stands_beside_other_metrics():
    figures = ("linearity", "linearity_no_residual")
    collection = MetricCollection(
        {name: BlockLinearity(D, figure=name) for name in figures} | {"mse": MeanSquaredError()}
    )
    given = batches()
    for x, y in given:
        collection.update(x.reshape(-1, D), y.reshape(-1, D))
    found, expected = collection.compute(), moments_of(given).compute()
    for name in figures:
        assert found[name].item() == exactly(getattr(expected, name))
    x, y = all_rows(given)
    assert found["mse"].item() == pytest.approx((x - y).square().mean().item(), rel=1e-5)
    assert set(map(frozenset, collection.compute_groups.values())) == {frozenset(figures), frozenset({"mse"})}


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one)), lambda one: one.clone()]
)
def test_a_copy_goes_on_by_itself(copied):
    metric, given = BlockLinearity(D), batches()
    metric.update(*given[0])
    other = copied(metric)
    other.update(*given[-1])
    assert metric.compute().item() == exactly(moments_of(given[:1]).compute().linearity)
    assert other.compute().item() == exactly(moments_of([given[0], given[-1]]).compute().linearity)


def test_a_checkpoint_of_the_module_it_stands_in_goes_on(tmp_path):
    module, given = nn.ModuleDict({"metric": BlockLinearity(D)}), batches()
    module["metric"].persistent(True)
    module["metric"].update(*given[0])
    torch.save(module.state_dict(), tmp_path / "checkpoint.pt")
    new = nn.ModuleDict({"metric": BlockLinearity(D)})
    new["metric"].persistent(True)
    new.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    for x, y in given[1:]:
        new["metric"].update(x, y)
    assert new["metric"].compute().item() == exactly(moments_of(given).compute().linearity)


def test_after_a_reset_it_is_new_and_inference_mode_leaves_a_state_that_goes_on():
    metric, given = BlockLinearity(D), batches()
    with torch.inference_mode():
        metric(*given[0])
        metric.reset()
        metric(*given[1])
    metric.update(*given[2])
    assert metric.compute().item() == exactly(moments_of(given[1:3]).compute().linearity)
    metric.reset()
    metric.update(*given[-1])
    assert metric.compute().item() == exactly(moments_of(given[-1:]).compute().linearity)


def test_states_are_merged_about_the_first_pilot_and_stay_float64():
    one, other, given = BlockLinearity(D), BlockLinearity(D).half().set_dtype(torch.float16), batches(offset=100.0)
    one.update(*given[0])
    other.update(*given[-1])
    one.merge_state(other)  # torchmetrics puts what comes in first
    expected = moments_of(given[-1:]).merge(moments_of(given[:1]))
    assert one.compute().item() == exactly(expected.compute().linearity)
    assert one.moments.heavy_rows == expected.heavy_rows == 1


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_where_a_figure_is_not_defined_it_is_nan():
    metric = BlockLinearity(D)
    assert metric.compute().isnan()
    metric.update(torch.zeros(1, D), torch.zeros(1, D))
    assert metric.compute().isnan()
    heldout = BlockLinearity(D, figure="linearity_heldout")
    heldout.update(*batches()[0])
    assert heldout.compute().isnan()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d": 0}, "`d` is 0"),
        ({"d": 4, "figure": "rows"}, "`figure` is 'rows': choose linearity"),
        ({"d": 4, "precision": "double"}, "choose fast, exact"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(options, message):
    with pytest.raises(LinscoreError, match=message):
        BlockLinearity(**options)
