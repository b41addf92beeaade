"""A block that is run again in backward: the same output, nothing else moved, and one state less at the peak."""

from __future__ import annotations

import pytest
import torch
from exact_memory import peak
from tiny_models import tiny
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from linscore.training import LinearityRegularizer
from linscore.training.rerun import Rerun, can_rerun

pytestmark = pytest.mark.usefixtures("one_thread")


class Block(nn.Module):
    """Random, and with an argument that matters."""

    gradient_checkpointing = True

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(16, 16)

    def forward(self, hidden_states, scale=1.0):
        return hidden_states + nn.functional.dropout(self.inner(hidden_states)) * scale, None


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_it_returns_what_the_call_returned(named, mixed):
    block, h = Block(), torch.randn(2, 5, 16)
    args, kwargs = ((), {"hidden_states": h, "scale": 3.0}) if named else ((h, 3.0), {})
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        rerun = Rerun(block, args, kwargs)
        wanted, _ = block(*args, **kwargs)
    torch.randn(3)
    before = torch.get_rng_state()
    got = rerun(h)
    assert torch.equal(got, wanted)
    assert not got.requires_grad
    assert torch.equal(torch.get_rng_state(), before)


def test_it_holds_no_state():
    h = torch.randn(2, 5, 16)
    held = [*Rerun(Block(), (h, 2.0), {}).args, *Rerun(Block(), (), {"hidden_states": h}).kwargs.values()]
    assert held == [2.0]


def test_only_where_checkpointing_is_on_and_the_weights_are_whole(tmp_path):
    block = Block()
    assert can_rerun(block)
    assert not can_rerun(block.eval())
    assert not can_rerun(nn.Linear(2, 2))
    block.train()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert not can_rerun(block)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif("__call__" in vars(GradientCheckpointingLayer), reason="refused: see test_regularizer")
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_step_peaks_no_higher(reentrant):
    """Six wide blocks and few logits, so that a plain step peaks while the last block is run again."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 6}
    model = tiny("llama", **sizes).train()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    ids = torch.zeros(2, 128, dtype=torch.long)

    def plain():
        model(input_ids=ids, labels=ids).loss.backward()

    def regularized():
        with LinearityRegularizer(model, cosine=0.5) as regularizer:
            loss = model(input_ids=ids, labels=ids).loss
            (loss + regularizer.loss()).backward()

    plain()  # the gradients of the parameters stay
    states = 7 * ids.numel() * 128 * 4
    assert peak(regularized) - peak(plain) <= 0.03 * states
