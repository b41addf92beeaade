"""Nothing else about a model or a run changes: checkpointing, mixed precision, compilation, processes."""

import copy
import gc
import weakref

import pytest
import torch
from regularizing import WEIGHTS, Toy, assert_same, gradients, padded, plain, regularized, tokens
from tiny_models import enable_checkpointing, tiny
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from linscore.errors import LinscoreError
from linscore.regularization.regularizer import LinearityRegularizer

pytestmark = pytest.mark.usefixtures("one_thread")


def test_without_weights_nothing_is_hooked():
    model = tiny("llama").train()
    regularizer = LinearityRegularizer(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert (float(regularizer.loss()), regularizer.terms()) == (0.0, {})


def test_what_the_model_computes_stays_the_same():
    model = tiny("gpt2").train()
    torch.manual_seed(0)
    before = model(input_ids=tokens()).logits
    with LinearityRegularizer(model, **WEIGHTS):
        torch.manual_seed(0)
        assert torch.equal(model(input_ids=tokens()).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_states_are_let_go_after_backward():
    model, seen = tiny("llama").train(), []
    model.model.layers[1].register_forward_hook(lambda _m, _a, out: seen.append(weakref.ref(out)))
    with LinearityRegularizer(model, **WEIGHTS) as regularizer:
        regularized(model, regularizer)
        gc.collect()
        assert [state() for state in seen] == [None]


def test_states_are_let_go_after_an_error():
    model, seen = tiny("llama").train(), []
    model.model.layers[1].register_forward_hook(lambda _m, _a, out: seen.append(weakref.ref(out)))
    model.model.norm.register_forward_hook(lambda *_: 1 / 0)
    with LinearityRegularizer(model, **WEIGHTS):
        with pytest.raises(ZeroDivisionError):
            model(input_ids=tokens())
        gc.collect()
        assert [state() for state in seen] == [None]


@pytest.mark.slow
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon"])
def test_gradient_checkpointing_changes_nothing_or_is_refused(family, reentrant):
    model = tiny(family).double().train()
    # Of a copy, for transformers leaves hooks in a model whose hidden states were asked for: see `can_rerun`.
    wanted = plain(copy.deepcopy(model), family, padded(), **WEIGHTS)
    with LinearityRegularizer(model, **WEIGHTS) as regularizer:
        enable_checkpointing(model, reentrant)
        if "__call__" in vars(GradientCheckpointingLayer):
            with pytest.raises(LinscoreError, match="upgrade transformers"):
                regularized(model, regularizer, padded())
        else:
            assert_same(regularized(model, regularizer, padded()), wanted)


@pytest.mark.parametrize("weights", [{"cosine": 1.0}, {"linearity": 1.0}])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("by", ["block", "caller"])
def test_checkpointing_of_whole_calls_is_refused(by, reentrant, weights):
    """As in transformers 5.17, and in older code of the Hub: the hooks would run again in backward."""

    class Block(nn.Linear):
        gradient_checkpointing = by == "block"

        def __call__(self, h):
            return checkpoint(super().__call__, h, use_reentrant=reentrant) if by == "block" else super().__call__(h)

    model = Toy()
    model.blocks = nn.ModuleList(Block(8, 8) for _ in range(2))
    if by == "caller":
        model.call = lambda block, h: checkpoint(block, h, use_reentrant=reentrant)
    message = "gradient checkpointing runs whole block calls again|tap ran again in backward"
    with LinearityRegularizer(model, **weights) as regularizer:
        if (by, reentrant) == ("caller", False):  # forward cannot know
            loss = model(tokens()).sum() + regularizer.loss()
            with pytest.raises(LinscoreError, match=message):
                loss.backward()
        else:
            with pytest.raises(LinscoreError, match=message):
                model(tokens())


def test_mixed_precision():
    model = tiny("llama").train()
    wanted = plain(copy.deepcopy(model).double(), "llama", **WEIGHTS)
    wanted = (wanted[0], {name: gradient.float() for name, gradient in wanted[1].items()})
    errors = []
    for run in (lambda m: plain(m, "llama", **WEIGHTS), lambda m: regularized(m, LinearityRegularizer(m, **WEIGHTS))):
        with torch.autocast("cpu", torch.bfloat16):
            got = run(copy.deepcopy(model))[1]
        errors.append(max(float((got[n] - g).norm() / g.norm()) for n, g in wanted[1].items()))
    assert errors[1] <= 2 * errors[0]


@pytest.mark.slow
def test_compiled_models():
    model = Toy()
    with LinearityRegularizer(model, **WEIGHTS) as regularizer:
        found = []
        for run in (model, torch.compile(model, backend="eager")):
            for seed in (0, 1):
                out = run(tokens(seed))
                (out.square().mean() + regularizer.loss()).backward()
            found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    assert all(torch.allclose(gradient, found[1][name], rtol=1e-5) for name, gradient in found[0].items())


def test_processes(tmp_path):
    """DistributedDataParallel finds every parameter, though penalties are no output of the model."""
    model = tiny("llama").double().train()
    wanted = plain(model, "llama", **WEIGHTS)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with LinearityRegularizer(model, **WEIGHTS) as regularizer:
            wrapped = nn.parallel.DistributedDataParallel(model)
            for _ in range(2):
                loss, _ = regularized(wrapped, regularizer)
                assert_same((loss, gradients(model) or wanted[1]), wanted)
    finally:
        torch.distributed.destroy_process_group()
