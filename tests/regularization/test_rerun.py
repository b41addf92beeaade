"""A block that is run again in backward: the same output, nothing else moved, and one state less at the peak."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from exact_memory import peak_bytes
from tiny_models import enable_checkpointing, tiny
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from linscore.regularization.regularizer import LinearityRegularizer
from linscore.regularization.rerun import Rerun, can_rerun

refused = pytest.mark.skipif("__call__" in vars(GradientCheckpointingLayer), reason="see test_regularized_runs")
pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


class Block(nn.Module):
    """With an argument that matters."""

    gradient_checkpointing = True

    def __init__(self, p=0.0) -> None:
        super().__init__()
        self.p = p
        self.inner = nn.Linear(16, 16)

    def forward(self, hidden_states, scale=1.0):
        return hidden_states + nn.functional.dropout(self.inner(hidden_states), self.p) * scale, None


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_it_returns_what_the_call_returned(named, mixed):
    block, h = Block(), torch.randn(2, 5, 16)
    args, kwargs = ((), {"hidden_states": h, "scale": 3.0}) if named else ((h, 3.0), {})
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        rerun = Rerun(block, args, kwargs)
        wanted, _ = block(*args, **kwargs)
    assert rerun.is_exact()
    got = rerun(h)
    assert torch.equal(got, wanted)
    assert not got.requires_grad


def test_a_block_that_draws_random_numbers_is_told_apart():
    block, h = Block(p=0.1), torch.randn(2, 5, 16)
    rerun = Rerun(block, (h,), {})
    block(h)
    assert not rerun.is_exact()


def test_it_holds_no_state():
    h = torch.randn(2, 5, 16)
    held = [*Rerun(Block(), (h, 2.0), {}).args, *Rerun(Block(), (), {"hidden_states": h}).kwargs.values()]
    assert held == [2.0]


def test_only_where_checkpointing_is_on():
    block = Block()
    assert can_rerun(block, ())
    assert not can_rerun(block.eval(), ())
    assert not can_rerun(nn.Linear(2, 2), ())


def test_not_where_hooks_may_change_what_the_block_gives():
    block = Block()
    ours = block.register_forward_hook(lambda *_: None)
    assert can_rerun(block, [ours.id])
    block.register_forward_pre_hook(lambda *_: None)
    assert not can_rerun(block, [ours.id])


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_not_where_an_optimizer_may_step_in_backward(register):
    block = Block()
    getattr(block.inner.weight, register)(lambda _: None)
    assert not can_rerun(block, ())


def test_not_where_other_processes_may_hold_the_weights(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert not can_rerun(Block(), ())
    finally:
        torch.distributed.destroy_process_group()


def checkpointed(reentrant, **changes):
    model = tiny("llama", **changes).train()
    enable_checkpointing(model, reentrant)
    return model


@pytest.mark.slow
@refused
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_step_peaks_no_higher(reentrant):
    """Six wide blocks and few logits, so that a plain step peaks while the last block is run again."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 6}
    model = checkpointed(reentrant, **sizes)
    ids = torch.zeros(2, 128, dtype=torch.long)

    def plain():
        model(input_ids=ids, labels=ids).loss.backward()

    def regularized():
        with LinearityRegularizer(model, cosine=0.5) as regularizer:
            loss = model(input_ids=ids, labels=ids).loss
            (loss + regularizer.loss()).backward()

    plain()  # the gradients of the parameters stay
    states = 7 * ids.numel() * 128 * 4
    assert peak_bytes(regularized, CPU) - peak_bytes(plain, CPU) <= 0.03 * states


@refused
@pytest.mark.parametrize("reentrant", [False, True])
def test_mixed_precision_gives_the_gradients_of_a_step_without_checkpointing(reentrant):
    gradients = []
    for model in (tiny("llama").train(), checkpointed(reentrant)):
        ids = torch.arange(40).view(2, 20)
        with LinearityRegularizer(model, cosine=0.5, mse=0.1) as regularizer:
            with torch.autocast("cpu", torch.bfloat16):
                out = model(input_ids=ids, labels=ids)
            (out.loss + regularizer.loss()).backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert all(map(torch.equal, *gradients))


@refused
def test_arguments_are_let_go_after_backward():
    """Though the loss is still about."""
    model, seen = checkpointed(False), []
    model.model.layers[-1].input_layernorm.register_forward_hook(lambda *_: seen.append(1))
    model.model.rotary_emb.register_forward_hook(lambda _m, _a, out: seen.append(weakref.ref(out[0])))
    with LinearityRegularizer(model, cosine=0.5) as regularizer:
        loss = model(input_ids=torch.zeros(2, 20, dtype=torch.long)).logits.mean() + regularizer.loss()
        loss.backward()
        assert seen.count(1) == 3  # forward, checkpointing, and once more
        gc.collect()
        assert [one() for one in seen if one != 1] == [None]
    assert loss.isfinite()
