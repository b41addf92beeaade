"""Gradients at the states between blocks, against float64 autograd through what is added to these states."""

import pytest
import torch
from tiny_models import tiny

from linscore import LinscoreError, find_decoder
from linscore.decoder.gradients import loss_gradients
from linscore.decoder.sub_blocks import find_sub_blocks

IDS = torch.randint(3, 64, (2, 12), generator=torch.Generator().manual_seed(0))


def gradients(model, blocks=(0, 1, 2), *, attention=True):
    decoder, found = find_decoder(model), {}
    asked = find_sub_blocks(decoder) if attention else None
    loss_gradients(decoder, IDS, lambda i, part, g: found.__setitem__((i, part), g.clone()), blocks, asked)
    return found


def total_loss(model, added=None, path=""):
    """The sum of the losses of all next tokens, with something added to what module `path` gives."""
    handle = None
    if added is not None:

        def add(_module, _args, output):
            return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

        handle = model.get_submodule(path).register_forward_hook(add)
    logits = model(input_ids=IDS[:, :-1], use_cache=False).logits
    if handle is not None:
        handle.remove()
    return -logits.log_softmax(-1).gather(-1, IDS[:, 1:, None]).sum()


# A sequential one, one whose blocks give tuples, a parallel one that adds in place.
@pytest.mark.parametrize(
    ("family", "blocks", "attention"),
    [
        ("llama", "model.layers.{}", ".self_attn"),
        ("bloom", "transformer.h.{}", ".self_attention.dense"),
        ("falcon", "transformer.h.{}", ""),
    ],
)
def test_they_are_those_of_autograd_in_float64(family, blocks, attention):
    model = tiny(family).double()
    found = gradients(model, attention=bool(attention))
    assert len(found) == (6 if attention else 3)
    for (index, part), gradient in found.items():
        added = torch.zeros(2, 11, 32, dtype=torch.float64, requires_grad=True)
        path = blocks.format(index) + (attention if part else "")
        (wanted,) = torch.autograd.grad(total_loss(model, added, path), added)
        assert torch.allclose(gradient, wanted, atol=1e-10), (index, part)


def test_a_small_change_of_one_state_changes_the_loss_by_so_much():
    model = tiny("gpt2").double()
    gradient = gradients(model, [1], attention=False)[1, None]
    step = 1e-5 * torch.randn(2, 11, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        up, down = (total_loss(model, sign * step, "transformer.h.1") for sign in (1, -1))
    assert float(up - down) / 2 == pytest.approx(float((gradient * step).sum()), rel=1e-6)


def test_the_model_is_as_it_was():
    model = tiny("llama").train()
    model.lm_head.weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    with torch.inference_mode():
        gradients(model)
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert all("forward" not in vars(block) and not block._forward_hooks for block in find_decoder(model).blocks)


def test_a_model_without_a_head_is_refused():
    with pytest.raises(LinscoreError, match="no language-model head"):
        gradients(tiny("llama").model, attention=False)


def test_a_model_that_breaks_the_graph_is_refused_with_the_reason():
    model = tiny("llama")
    handle = model.model.layers[1].register_forward_pre_hook(lambda _block, args: tuple(a.detach() for a in args))
    with pytest.raises(LinscoreError, match=r"no gradient of its loss comes through .*leave out `sensitivity`"):
        gradients(model, attention=False)
    handle.remove()
    assert gradients(model, attention=False).keys() == {(index, None) for index in range(3)}
