from dataclasses import replace

import pytest
import torch
from tiny_models import FAMILIES, PROJECTIONS, WIDTH, tiny
from torch import nn

from linscore import LinscoreError
from linscore.decoder.find import find_decoder
from linscore.decoder.mlp_output import find_projection, in_out_weight
from linscore.decoder.run import run

pytestmark = pytest.mark.usefixtures("one_thread")

NORM, EXPERTS = "a norm or a scale after it", "mixtures of experts"
REFUSED = {
    "opt_350m": NORM,
    "gemma2": NORM,
    "gemma3": NORM,
    "olmo2": NORM,
    "mixtral": EXPERTS,
    "gpt_oss": EXPERTS,
    "qwen3_moe": EXPERTS,
}


def test_every_family_is_one_or_the_other():
    assert {*PROJECTIONS, *REFUSED} == set(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", PROJECTIONS)
def test_the_projection_is_found(family, dtype):
    assert find_projection(find_decoder(tiny(family).to(dtype))) == PROJECTIONS[family]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_cannot_be_fused_is_refused_with_the_reason(family, dtype):
    with pytest.raises(LinscoreError, match=REFUSED[family]) as refusal:
        find_projection(find_decoder(tiny(family).to(dtype)))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("scale", [0.22, 0.9])
def test_a_scaled_residual_is_refused(scale):
    model = tiny("llama").to(torch.bfloat16)
    mlp = model.model.layers[1].mlp  # one block of three is enough
    mlp.register_forward_hook(lambda _m, _a, output: output * scale)
    with pytest.raises(LinscoreError, match=NORM):
        find_projection(find_decoder(model))


def test_a_projection_that_does_not_run_is_refused():
    model = tiny("llama")
    model.model.layers[2].mlp.forward = torch.zeros_like
    with pytest.raises(LinscoreError, match="does not reach"):
        find_projection(find_decoder(model))


class Quantized(nn.Linear):
    """As bitsandbytes does it: a linear layer by class, whose weight is packed integers."""

    def __init__(self, layer: nn.Linear):
        super().__init__(layer.in_features, layer.out_features, bias=False)
        self.weight = nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


class Adapted(nn.Module):
    """As an adapter wraps a layer: it runs like one, but is none."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.base_layer = layer

    def forward(self, x):
        return self.base_layer(x)


@pytest.mark.parametrize("wrapper", [Quantized, Adapted])
def test_a_layer_without_a_plain_weight_is_refused(wrapper):
    model = tiny("llama")
    mlp = model.model.layers[1].mlp
    mlp.down_proj = wrapper(mlp.down_proj)
    with pytest.raises(LinscoreError, match=f"block 1 .{wrapper.__name__}. has no plain floating-point weight"):
        find_projection(find_decoder(model))


def test_blocks_without_a_known_projection_are_refused():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return x + self.map(x)

    decoder = find_decoder(tiny("llama"))
    with pytest.raises(LinscoreError, match=r"not every block .Block/LlamaDecoderLayer. has one of"):
        find_projection(replace(decoder, blocks=nn.ModuleList([*decoder.blocks, Block()])))


def test_the_model_computes_what_it_did_before():
    model = tiny("falcon")
    ids = torch.arange(3, 19)[None]
    with torch.no_grad():
        before = model(ids).logits
        find_projection(find_decoder(model))
        assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_the_weight_maps_inputs_to_outputs_and_edits_reach_the_layer(family):
    decoder = find_decoder(tiny(family))
    layer = decoder.blocks[1].get_submodule(PROJECTIONS[family])
    seen = {}
    layer.register_forward_hook(lambda _m, args, output: seen.update(m=args[0].double(), out=output.double()))
    run(decoder, torch.arange(3, 19)[None])
    weight, bias = in_out_weight(layer), 0 if layer.bias is None else layer.bias.double()
    assert weight.shape == (seen["m"].shape[-1], WIDTH)
    torch.testing.assert_close(seen["m"] @ weight.double() + bias, seen["out"], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        in_out_weight(layer).zero_()
    assert not layer.weight.any()


def test_what_is_no_linear_layer_has_no_weight_to_give():
    with pytest.raises(LinscoreError, match="LayerNorm is no linear layer"):
        in_out_weight(nn.LayerNorm(4))
