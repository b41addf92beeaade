from dataclasses import fields

import pytest
import torch
from tiny_models import shared
from transformers import AutoModelForCausalLM

from linscore.decoder.find import find_decoder
from linscore.errors import LinscoreError
from linscore.models.on_paper import Held
from linscore.options.score import ScoreOptions
from linscore.scoring.collect import Collector
from linscore.scoring.needs import SOLVE, Workload, block_moments, cpu_workspace, gpu_workspace, needs_of
from linscore.spans import Span
from linscore.statistics.cell import Cell
from linscore.statistics.figures import block_metrics
from linscore.statistics.moments import Moments

SPANS = [Span(1, 2), Span(1, 1)]
CELL = 8 * (32 * 64 + 32 + 32 + 1)  # second moments, sums and number of a block of width 32; figures beside


def on_paper(family="llama"):
    config = shared(family).config
    with torch.device("meta"):
        return find_decoder(AutoModelForCausalLM.from_config(config))


def test_moments_of_a_llama_are_those_worked_out_by_hand():
    figures = Cell.zeros(1, 1).scalars.nbytes
    found = block_moments(on_paper(), ScoreOptions(folds=3))
    assert found == [3 * (CELL + figures)] * 2 + [2 * 3 * (CELL + figures)]  # what leaves the last block has its own


@pytest.mark.parametrize(
    "options",
    [
        ScoreOptions(),
        ScoreOptions(folds=1, sub_blocks=True),
        ScoreOptions(blocks=[1]),
        ScoreOptions(spans=SPANS[:1], fuse=SPANS, fuse_output=SPANS[:1]),
    ],
)
def test_moments_are_as_large_as_a_run_makes_them(options):
    decoder, found = find_decoder(shared("llama")), 0
    collector = Collector(decoder, options)
    folds = torch.arange(8) % options.folds
    collector.add(
        {"input_ids": torch.randint(0, 64, (8, 16), generator=torch.Generator().manual_seed(0)), "folds": folds}
    )
    for moments in collector.moments.values():
        assert not any(moments.heavy)
        found += sum(getattr(cell, one.name).nbytes for cell in moments.light for one in fields(Cell))
    assert sum(block_moments(on_paper(), options)) == found


def test_where_nothing_can_be_fused_that_is_said():
    with pytest.raises(LinscoreError, match="mixtures of experts"):
        block_moments(on_paper("mixtral"), ScoreOptions(fuse=[Span(1, 1)]))


@pytest.mark.parametrize("folds", [1, 2, 3, 4])
@pytest.mark.parametrize("sinks", [False, True])
def test_figures_take_as_many_matrices_as_are_planned(folds, sinks):
    d, generator = 64, torch.Generator().manual_seed(0)
    moments, after = Moments(d, folds=folds), Moments(d, folds=folds)
    for fold in range(folds):
        x, step = torch.randn(2, 10 * d, d, generator=generator)
        x[0] *= 1000 if sinks else 1
        moments.update(x, x + 0.1 * step, fold=fold)
        after.update(x, x, fold=fold)
    assert (moments.heavy_rows > 0) == sinks
    with Held() as held:
        block_metrics(moments, after=after)
    assert held.peak == pytest.approx(SOLVE[min(folds, 3)][sinks] * 8 * d * d, rel=0.05)


def test_the_workspace_of_a_cpu_is_operands_running_sums_and_a_slab():
    assert cpu_workspace(100, 32, 32, torch.bfloat16, "fast") == 4 * (2 * 100 * 32 + 2 * 32 * 32) + 8 * (1 << 17)
    assert cpu_workspace(100, 32, 32, torch.float32, "exact") == 8 * (2 * 100 * 32 + 2 * 32 * 32) + 8 * (1 << 17)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_workspace_of_a_gpu_holds_the_operands_of_the_kernels(dtype):
    triton = pytest.importorskip("linscore_kernels.second_moments.triton")
    shape, kind = triton.operand_shape(1000, 300, dtype, "fast")
    operands = kind.itemsize * torch.Size(shape).numel()
    partials = 4 * 132 * 128 * 128
    assert gpu_workspace(1000, 300, 300, split=dtype is torch.float32) == operands + partials


def test_products_of_the_moments_are_counted_with_the_pass():
    workload = Workload(1, 16, ScoreOptions(folds=1), "eager")
    pair, paper = 3 * 32 * 32, needs_of(on_paper(), workload)
    fewer = needs_of(on_paper(), Workload(1, 16, ScoreOptions(folds=1, blocks=[1]), "eager"))
    assert paper.flops - fewer.flops == 2 * pair  # 4 pairs, and block 1 with what leaves it
    assert paper.state == 4 * 32
