"""The counted model of an update: cases worked out by hand, and what the code really launches."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

import expected
from expected import (
    Machine,
    accumulate_parts,
    forward_flop,
    gram_parts,
    kernel_seconds,
    layer_loss_seconds,
    scoring_seconds,
    update_parts,
)
from shapes import LLAMA_8B
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from linscore.statistics.moments import Moments

BF16 = torch.bfloat16


def test_the_products_of_768_features_are_thirty_tiles_in_four_parts():
    """128 × 256: 12 tiles reach the diagonal, 18 are of δ; 120 programs of 4,096 tokens each run at once."""
    machine = Machine(matrix=132e12, copy=1e12, mainloop=0.5, launch=0.0)  # a program does 0.5 TFLOP/s
    gram, merge = gram_parts(16_384, 768, split=False, machine=machine)
    assert gram.flop == 120 * 2 * 128 * 256 * 4096
    assert gram.moved == 120 * 4 * 128 * 256
    assert gram.seconds == pytest.approx(2 * 128 * 256 * 4096 / 0.5e12 + 132 * 4 * 128 * 256 / 1e12)
    assert merge.moved == 1.5 * 768**2 * (4 * 4 + 2 * 8)
    assert merge.seconds == pytest.approx(merge.moved / 1e12)


def test_an_update_reads_both_states_and_writes_both_operands():
    (stats, *_) = update_parts(16_384, 768, BF16)
    assert stats.moved == pytest.approx(4 * 16_384 * 768 * 2, rel=0.15)  # an eighth more are column sums


def test_a_chunk_more_is_merged_once_more_and_sinks_are_products_in_float64():
    assert sum(part.name == "merge" for part in accumulate_parts(65_536, 8192, BF16)) == 2
    (*_, added) = update_parts(16_384, 4096, BF16, heavy=8)
    assert (added.flop, added.moved) == (4 * 4096**2 * 8, 4 * 8 * 4096**2)
    shape = replace(LLAMA_8B, blocks=1, sequences=8)  # one batch; what leaves the block is summed, too
    added = scoring_seconds(shape, BF16)
    assert added == pytest.approx(2 * sum(part.seconds for part in update_parts(16_384, 4096, BF16)))
    weights = sum(parameter.numel() for parameter in llama_block(LLAMA_8B).parameters() if parameter.ndim == 2)
    attention = 4 * 2048 * 4096 / 2  # ⟨q, k⟩ and its product with v, where k is not after q
    assert forward_flop(shape) == 16_384 * (2 * weights + attention)


def test_the_layer_loss_moves_each_state_three_times():
    """Read in forward at 70 % of the copy rate, in backward at 90 %, and its gradient written; three launches."""
    machine = Machine(copy=1e12, reading=0.7, copying=0.9, launch=1e-6)
    assert layer_loss_seconds(9, 1e9, machine) == pytest.approx(9e-3 / 0.7 + 18e-3 / 0.9 + 3e-6)
    assert layer_loss_seconds(33, 1e9, machine) == pytest.approx(36e-3 / 0.7 + 72e-3 / 0.9 + 9e-6)


def llama_block(shape):
    """On no device."""
    sizes = {"num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads}
    config = LlamaConfig(hidden_size=shape.width, intermediate_size=shape.inner, **sizes)
    with torch.device("meta"):
        return LlamaDecoderLayer(config, 0)


def test_expectations_are_near_what_a_review_had_found_by_disassembling():
    """Of an H100: shares of the floor of `gram` at four shapes (docs/performance.md)."""
    h100 = Machine(matrix=798e12, copy=3.0e12)
    for d, tokens, share in ((768, 16_384, 0.50), (768, 65_536, 0.61), (2048, 65_536, 0.69), (4096, 65_536, 0.74)):
        found = kernel_seconds("gram", d, tokens, BF16, h100)
        assert 3 * d**2 * tokens / h100.matrix / found == pytest.approx(share, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("sinks", [0, 3])
def test_an_update_launches_what_is_counted(monkeypatch, sinks):
    from linscore_kernels.second_moments import held_rows
    from waits import watched

    monkeypatch.setattr(held_rows, "LEAST", 4)
    x, y = torch.randn(2, 512, 64, generator=torch.Generator().manual_seed(0)).to(BF16)
    x[300 : 300 + sinks] *= 1000
    moments = Moments(64, backend="triton")
    moments.update(x[:256], y[:256])
    with watched(monkeypatch, [x, y]) as device:
        update = moments.begin(x, y)
        assert update.settle(sinks)
    counted = sum(part.launches for part in update_parts(512, 64, BF16, heavy=sinks))
    assert len(device.launches) == counted, device.launches


def test_the_tables_of_the_docs_are_those_that_are_computed():
    text = (Path(expected.ROOT) / "docs/performance.md").read_text(encoding="utf-8")
    for line in expected.tables().splitlines():
        assert line in text, "write what `python benchmarks/expected.py` prints"
