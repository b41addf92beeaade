"""The forward pass does not wait for what is summed beside it: launches of each block, and one wait a batch.

On a GPU torch says who waits; elsewhere Triton's interpreter runs the kernels, and modes count.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import fields

import pytest
import torch
from linscore_kernels import has_triton
from oracles import states
from tiny_models import VOCABULARY, tiny
from torch import Tensor

from linscore.decoder.find import find_decoder
from linscore.decoder.run import run
from linscore.scoring.collect import Collector
from linscore.statistics.cell import Cell
from linscore.statistics.moments import Moments

if not has_triton():
    pytest.skip("no triton", allow_module_level=True)

from kernel_oracles import DEVICE
from linscore_kernels.second_moments import held_rows
from waits import watched

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]
SINK, TEXTS, LENGTH = 1, 4, 9
PAIRS = 2  # a block, and what leaves it


def sinking(family: str = "llama"):
    """A decoder whose first token is a sink in every block."""
    model = copy.deepcopy(tiny(family))
    with torch.no_grad():
        model.get_input_embeddings().weight[SINK] *= 12000
    return model.to(DEVICE)


def batch(seed: int, sinks: int = TEXTS, folds: int = 1) -> dict[str, Tensor]:
    tokens = torch.randint(3, VOCABULARY, (TEXTS, LENGTH), generator=torch.Generator().manual_seed(seed))
    tokens[:sinks, 0] = SINK
    return {"input_ids": tokens, "folds": torch.arange(TEXTS) % folds}


def asked(monkeypatch, model, given: dict[str, Tensor], collector: Collector):
    """Launches and waits of one more batch, beyond those of the decoder alone."""
    with watched(monkeypatch, model.parameters()) as plain:
        run(collector.decoder, given["input_ids"])
    with watched(monkeypatch, model.parameters()) as scored:
        collector.add(given)
    assert scored.synchronized <= plain.synchronized + 1
    return Counter(scored.launches) - Counter(plain.launches), Counter(scored.waits) - Counter(plain.waits)


@pytest.fixture(autouse=True)
def _few_are_held(monkeypatch):
    """The interpreter takes its time for each row that may be held."""
    monkeypatch.setattr(held_rows, "LEAST", TEXTS)


@pytest.mark.parametrize(("sinks", "folds", "most"), [(0, 1, 5), (TEXTS, 2, 9)])
def test_a_batch_waits_once_and_no_block_does(monkeypatch, sinks, folds, most):
    model = sinking().bfloat16()
    collector = Collector(find_decoder(model), backend="triton", blocks=[1], folds=folds)
    collector.add(batch(0, sinks, folds))
    launches, waits = asked(monkeypatch, model, batch(1, sinks, folds), collector)
    assert waits == {"tolist": 1}
    assert launches["_gram_kernel"] == PAIRS * folds
    assert launches.total() <= most * PAIRS * folds + 1  # and the numbers of all blocks side by side


def test_the_sums_are_those_of_waiting_for_each_block(monkeypatch):
    """The one heavy row of the first batch is held; those of the second are more than are held."""
    monkeypatch.setattr(held_rows, "LEAST", 1)
    model, batches = sinking(), [batch(0, sinks=1), batch(1)]
    found, expected = (collected(model, batches, backend) for backend in ("triton", "eager"))
    assert found.crowded == set(found.moments)
    for name, waited in expected.moments.items():
        for kind in ("light", "heavy"):
            for field in fields(Cell):
                sums, exact = (summed(one, kind, field.name) for one in (found.moments[name], waited))
                assert (sums - exact).abs().max() <= 1e-6 * exact.abs().max(), (name, kind, field.name)


def collected(model, batches, backend: str) -> Collector:
    collector = Collector(find_decoder(model), backend=backend, precision="exact", blocks=[1], folds=1)
    for one in batches:
        collector.add(one)
    return collector


def summed(moments: Moments, kind: str, field: str) -> Tensor:
    found = getattr(getattr(moments, kind)[0], field)
    return found.triu() if field == "second" else found  # below the diagonal nothing is promised


def test_an_update_by_itself_waits_once(monkeypatch):
    """For the number of heavy rows; the pilot is there."""
    x, y = states(72, 32)
    moments = Moments(32, backend="triton", device=DEVICE)
    moments.update(x.to(DEVICE), y.to(DEVICE))
    x[5] *= 1000
    x, y = x.to(DEVICE), y.to(DEVICE)
    with watched(monkeypatch, [x, y]) as device:
        moments.update(x, y)
    assert moments.heavy_rows == 1
    assert device.waits == ["nonzero"]
    assert len(device.launches) <= 12
