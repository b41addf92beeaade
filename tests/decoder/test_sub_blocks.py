"""What attention and MLP add, in every family; oracles are the modules that read the stream."""

import pytest
import torch
from decoders import UNSPLIT, decoder_of, hook_count, some_tokens, states_of, sub_blocks_of
from tiny_models import FAMILIES, tiny
from torch import Tensor, nn

from linscore.decoder.find import find_decoder
from linscore.decoder.run import watch
from linscore.decoder.states import BlockStates, SubBlocks
from linscore.decoder.sub_blocks import adds_up, find_sub_blocks
from linscore.errors import LinscoreError

pytestmark = pytest.mark.usefixtures("one_thread")


LLAMA_LIKE = ("self_attn", "mlp", "post_attention_layernorm")
POST_NORMED = ("post_attention_layernorm", "post_feedforward_layernorm", "pre_feedforward_layernorm")
# attention, MLP, the module of the block that reads the stream which the MLP adds to
SUB_BLOCKS = {
    "gpt2": ("attn", "mlp", "ln_2"),
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h", "post_attention_layernorm"),
    "gptj": ("attn", "mlp", "ln_1"),
    "gpt_neo": ("attn", "mlp", "ln_2"),
    "falcon": ("self_attention", "mlp", "input_layernorm"),
    "mpt": ("attn", "ffn.down_proj", "norm_2"),
    "opt": ("self_attn", "fc2", "final_layer_norm"),
    "gpt_neox": ("attention", "mlp", "post_attention_layernorm"),
    "gemma2": POST_NORMED,
    "gemma3": POST_NORMED,
    "phi": ("self_attn", "mlp", "input_layernorm"),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm", "mlp"),
}
PARALLEL = {"gptj", "falcon", "gpt_neox", "phi"}
SPLIT = [family for family in FAMILIES if family not in UNSPLIT]


@pytest.mark.parametrize("family", SPLIT)
def test_attention_and_mlp_add_up_to_what_the_block_adds(family: str) -> None:
    decoder, sub_blocks = decoder_of(family), sub_blocks_of(family)
    attention, mlp, reader = SUB_BLOCKS.get(family, LLAMA_LIKE)
    assert sub_blocks == SubBlocks(attention, mlp, parallel=family in PARALLEL)
    read: list[Tensor] = []
    handles = [
        block.get_submodule(reader).register_forward_pre_hook(lambda _m, args: read.append(args[0].clone()))
        for block in decoder.blocks
    ]
    states = states_of(decoder, some_tokens(), sub_blocks=sub_blocks)
    for handle in handles:
        handle.remove()
    for i, s in states.items():
        torch.testing.assert_close(s.x + s.attention + s.mlp, s.y, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(s.mlp_input, read[i].reshape(s.x.shape))
        if family not in PARALLEL:
            torch.testing.assert_close(s.y - s.mlp, s.mlp_input, rtol=1e-5, atol=1e-5)
        assert min(s.attention.std(), s.mlp.std()) > 1e-2


@pytest.mark.parametrize(
    ("family", "changes", "parallel"),
    [
        ("falcon", {"parallel_attn": False}, False),
        ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}, True),
        ("falcon", {"alibi": True}, True),
        ("gpt_neox", {"use_parallel_residual": False}, False),
        ("stablelm", {"use_parallel_residual": True}, True),
    ],
)
def test_the_wiring_is_measured_not_read_off_the_family(family: str, changes: dict, parallel: bool) -> None:
    decoder = find_decoder(tiny(family, **changes))
    sub_blocks = find_sub_blocks(decoder)
    assert sub_blocks.parallel is parallel
    for s in states_of(decoder, some_tokens(), sub_blocks=sub_blocks).values():
        torch.testing.assert_close(s.x + s.attention + s.mlp, s.y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gemma2", "bloom", "llama"])
def test_bfloat16_rounding_neither_hides_nor_fakes_a_sub_block(family: str) -> None:
    decoder = find_decoder(tiny(family).to(torch.bfloat16))
    assert find_sub_blocks(decoder) == sub_blocks_of(family)


def test_an_attention_that_adds_nothing_yet_does_not_look_parallel() -> None:
    model = tiny("llama")
    for block in model.model.layers:
        nn.init.zeros_(block.self_attn.o_proj.weight)
    assert find_sub_blocks(find_decoder(model)).parallel is False


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_contributions_are_told_from_others_of_their_size(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    x, attention, mlp, other = (torch.randn(1, 8, 64, generator=generator).to(dtype) for _ in range(4))
    attention, mlp, other = attention / 256, mlp / 256, other / 256
    # Whichever order the model adds in.
    for y in (x + attention + mlp, x + (attention + mlp), x + mlp + attention):
        assert adds_up(BlockStates(x, y, attention, mlp))
        assert not adds_up(BlockStates(x, y, attention, other))
        assert not adds_up(BlockStates(x, y, attention, torch.zeros_like(mlp)))


def test_looking_for_sub_blocks_leaves_no_hook() -> None:
    model = tiny("gpt_neox")
    before = hook_count(model)
    find_sub_blocks(find_decoder(model))
    assert hook_count(model) == before


@pytest.mark.parametrize(
    ("family", "reason"),
    [("opt_350m", "norms after the sum"), ("mamba", "expose no MLP"), ("mamba2", "expose no MLP")],
)
def test_blocks_that_cannot_be_split_are_refused_with_the_reason(family: str, reason: str) -> None:
    with pytest.raises(LinscoreError, match=reason):
        find_sub_blocks(decoder_of(family))


def test_sub_blocks_that_do_not_exist_are_refused() -> None:
    wrong = SubBlocks("attn", "mlp", parallel=False)
    with pytest.raises(LinscoreError, match="has no module 'attn'"), watch(decoder_of("llama"), print, None, wrong):
        pass
