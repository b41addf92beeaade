"""The residual stream as read from tiny models of every family; oracles are the models' own hidden states and norms."""

import gc
import weakref
from functools import cache

import pytest
import torch
import transformers
from tiny_models import DEPTH, FAMILIES, VOCABULARY, WIDTH, tiny
from torch import Tensor, nn

from linscore.decoder.find import Decoder, find_decoder
from linscore.decoder.run import check_causal, run, watch
from linscore.decoder.states import BlockStates, SubBlocks
from linscore.decoder.sub_blocks import adds_up, find_sub_blocks
from linscore.errors import LinscoreError

PATHS = {
    **dict.fromkeys(["gpt2", "bloom", "gptj", "gpt_neo", "falcon"], "transformer.h"),
    "mpt": "transformer.blocks",
    "opt": "model.decoder.layers",
    "opt_350m": "model.decoder.layers",
    "gpt_neox": "gpt_neox.layers",
    "mamba": "backbone.layers",
    "mamba2": "backbone.layers",
}
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
UNSPLIT = {"opt_350m", "mamba", "mamba2"}
SPLIT = [family for family in FAMILIES if family not in UNSPLIT]
MAMBAS = ("mamba", "mamba2")
every_family = pytest.mark.parametrize("family", FAMILIES)
pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def decoder_of(family: str) -> Decoder:
    return find_decoder(tiny(family))


@cache
def sub_blocks_of(family: str) -> SubBlocks:
    return find_sub_blocks(decoder_of(family))


def some_tokens(batch: int = 2, length: int = 9) -> Tensor:
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(1))


def states_of(decoder: Decoder, *inputs: Tensor, sub_blocks: SubBlocks | None = None) -> dict[int, BlockStates]:
    states: dict[int, BlockStates] = {}
    with watch(decoder, states.__setitem__, sub_blocks=sub_blocks):
        run(decoder, *inputs)
    return states


def hook_count(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class PlainDecoder(nn.Module):
    """A causal running mean over tokens, without configuration, cache or mask."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(depth))

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embedding(tokens)
        for block in self.blocks:
            h = block(h.cumsum(1) / torch.arange(1, h.shape[1] + 1)[:, None])
        return h


class ImageStack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3) for _ in range(4))


# Finding


@every_family
def test_blocks_are_found_where_the_family_keeps_them(family: str) -> None:
    decoder = decoder_of(family)
    assert decoder.path == PATHS.get(family, "model.layers")
    assert decoder.model.get_submodule(decoder.path) is decoder.blocks
    assert (len(decoder.blocks), decoder.width) == (DEPTH, WIDTH)
    assert decoder.name == type(decoder.model).__name__
    check_causal(decoder)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "mamba"])
def test_a_model_without_its_head_is_read_the_same(family: str) -> None:
    decoder = find_decoder(decoder_of(family).model.base_model)
    assert decoder.path == PATHS.get(family, "model.layers").split(".", 1)[1]
    expected = states_of(decoder_of(family), some_tokens())
    assert all(torch.equal(s.y, expected[i].y) for i, s in states_of(decoder, some_tokens()).items())


def test_the_name_is_the_one_the_model_was_loaded_by() -> None:
    model = tiny("llama")
    model.config.name_or_path = "someone/some-model"
    assert find_decoder(model).name == "someone/some-model"


def test_a_single_block_is_found_if_the_configuration_says_one() -> None:
    assert len(find_decoder(tiny("llama", num_hidden_layers=1)).blocks) == 1
    with pytest.raises(LinscoreError, match=r"looked for one ModuleList of two or more like blocks"):
        find_decoder(PlainDecoder(depth=1))


def test_a_plain_module_needs_no_configuration() -> None:
    decoder = find_decoder(PlainDecoder())
    assert (decoder.path, decoder.width, decoder.name) == ("blocks", 8, "PlainDecoder")
    check_causal(decoder)
    assert states_of(decoder, torch.tensor([[1, 2, 3]]))[2].y.shape == (1, 3, 8)
    with pytest.raises(LinscoreError, match="takes no attention_mask"):
        run(decoder, torch.tensor([[1, 2, 3]]), torch.tensor([[0, 1, 1]]))


def test_a_replaced_block_of_a_subclass_is_still_one_of_the_blocks() -> None:
    model = tiny("llama")

    class Replaced(type(model.model.layers[0])):  # type: ignore[misc]
        pass

    model.model.layers[1] = Replaced(model.config, 1)
    assert len(find_decoder(model).blocks) == DEPTH


def test_the_text_decoder_of_a_multimodal_model_is_found_beside_its_vision_tower() -> None:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    text = {**sizes, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "pad_token_id": 0}
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**text),
        vision_config=transformers.CLIPVisionConfig(**sizes, image_size=8, patch_size=4),
        image_token_index=5,
    )
    decoder = find_decoder(transformers.LlavaForConditionalGeneration(config).eval())
    assert decoder.path == "model.language_model.layers"
    check_causal(decoder)


def test_lists_inside_the_blocks_are_not_taken_for_the_blocks() -> None:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    model = PlainDecoder()
    model.blocks = nn.ModuleList(Mixture() for _ in range(3))
    assert find_decoder(model).path == "blocks"


def test_the_length_that_the_configuration_says_decides_between_two_lists() -> None:
    model = tiny("llama")
    model.model.side = nn.ModuleList(nn.Linear(3, 3) for _ in range(DEPTH + 1))
    assert find_decoder(model).path == "model.layers"


# Reading


@every_family
def test_states_are_the_hidden_states_of_the_model(family: str) -> None:
    decoder, tokens = decoder_of(family), some_tokens()
    with torch.no_grad():
        hidden = decoder.model(tokens, output_hidden_states=True, use_cache=False).hidden_states
    states = states_of(decoder, tokens)
    assert list(states) == list(range(DEPTH))
    for i in range(DEPTH):
        # Mamba lists what leaves each block, and the embeddings not at all.
        torch.testing.assert_close(states[i].y if family in MAMBAS else states[i].x, hidden[i])
        assert states[i].attention is states[i].mlp is states[i].mlp_input is None
    for i in range(1, DEPTH):
        assert torch.equal(states[i - 1].y, states[i].x)


@every_family
def test_the_last_state_becomes_the_models_output_through_its_final_norm(family: str) -> None:
    decoder, tokens = decoder_of(family), some_tokens()
    with torch.no_grad():
        expected = decoder.backbone(tokens, use_cache=False).last_hidden_state
        last = states_of(decoder, tokens)[DEPTH - 1].y
        # OPT-350m has no final norm and projects to the width of its embedding instead.
        names = ("ln_f", "norm_f", "final_layer_norm", "final_layernorm", "final_norm", "norm", "project_out")
        finals = [m for name in names if (m := getattr(decoder.backbone, name, None)) is not None]
        assert len(finals) == 1
        torch.testing.assert_close(finals[0](last), expected)
    assert not torch.allclose(last[..., : expected.shape[-1]], expected, rtol=1e-2)


@pytest.mark.parametrize("side", ["left", "right"])
@every_family
def test_padding_leaves_the_states_of_real_tokens_unchanged(family: str, side: str) -> None:
    decoder, tokens = decoder_of(family), some_tokens()
    kept = slice(3, None) if side == "left" else slice(None, -3)
    alone = states_of(decoder, tokens[1:, kept])
    mask = torch.ones_like(tokens)
    mask[1] = 0
    mask[1, kept] = 1
    padded = states_of(decoder, tokens.where(mask == 1, 0), mask)
    whole = states_of(decoder, tokens[:1])
    for i in range(DEPTH):
        for name in ("x", "y"):
            for row, expected in ((slice(1, 2), getattr(alone[i], name)), (slice(0, 1), getattr(whole[i], name))):
                found = getattr(padded[i], name)[row]
                found = found[:, kept] if row.start == 1 else found
                assert (found - expected).norm() <= 1e-5 * expected.norm(), f"{name} of block {i}"


@every_family
def test_no_activation_outlives_the_hook(family: str) -> None:
    seen: list[weakref.ref[Tensor]] = []

    def look(index: int, states: BlockStates) -> None:
        # The model itself holds the embeddings (x of block 0) and y, the next block's x.
        assert not any(ref() is not None for ref in seen if index > 1)
        seen[:] = [weakref.ref(t) for t in (states.x, states.attention, states.mlp) if t is not None]
        last.append(weakref.ref(states.y))

    last: list[weakref.ref[Tensor]] = []
    decoder = decoder_of(family)
    with watch(decoder, look, sub_blocks=None if family in UNSPLIT else sub_blocks_of(family)):
        run(decoder, some_tokens())
        assert len(last) == DEPTH
        assert not any(ref() is not None for ref in seen + last)


def test_between_blocks_and_batches_the_watch_itself_holds_no_tensor() -> None:
    batch, length = 3, 7  # sizes of no weight
    with watch(decoder_of("opt"), lambda *_: None, sub_blocks=sub_blocks_of("opt")):
        run(decoder_of("opt"), some_tokens(batch, length))
        sizes = [o.numel() for o in gc.get_objects() if type(o) is Tensor]
    assert batch * length * WIDTH not in sizes


def test_nothing_is_kept_of_a_block_that_failed_half_way() -> None:
    decoder = find_decoder(tiny("llama"))
    seen: list[weakref.ref[Tensor]] = []

    def fail(_module: nn.Module, _args: tuple[Tensor], output: Tensor) -> None:
        seen.append(weakref.ref(output))
        raise RuntimeError("out of memory")

    decoder.blocks[1].mlp.register_forward_hook(fail)
    before = hook_count(decoder.model)
    with pytest.raises(RuntimeError), watch(decoder, lambda *_: None, sub_blocks=sub_blocks_of("llama")):
        run(decoder, some_tokens())
    assert hook_count(decoder.model) == before
    assert seen[0]() is None


def test_hooks_are_gone_after_an_exception_in_the_callback() -> None:
    decoder = decoder_of("llama")

    def fail(_index: int, _states: BlockStates) -> None:
        raise KeyError("callback")

    before = hook_count(decoder.model)
    sub_blocks, during = sub_blocks_of("llama"), []
    with watch(decoder, fail, sub_blocks=sub_blocks):
        during.append(hook_count(decoder.model))
    with pytest.raises(KeyError), watch(decoder, fail, sub_blocks=sub_blocks):
        run(decoder, some_tokens())
    assert during == [before + 3 * DEPTH]
    assert hook_count(decoder.model) == before


@every_family
def test_a_block_does_not_modify_its_input_in_place(family: str) -> None:
    decoder, clones, same = decoder_of(family), [], []

    def clone(_block: nn.Module, args: tuple, kwargs: dict) -> None:
        clones.append((args[0] if args else kwargs["hidden_states"]).clone())

    handles = [block.register_forward_pre_hook(clone, with_kwargs=True) for block in decoder.blocks]
    with watch(decoder, lambda index, states: same.append(torch.equal(states.x, clones[index]))):
        run(decoder, some_tokens())
    for handle in handles:
        handle.remove()
    assert same == [True] * DEPTH


def test_only_the_wanted_blocks_are_watched() -> None:
    seen: list[int] = []
    with watch(decoder_of("llama"), lambda index, _: seen.append(index), blocks={2, 0}):
        run(decoder_of("llama"), some_tokens())
    assert seen == [0, 2]
    with (
        pytest.raises(LinscoreError, match=r"no blocks \[-1, 3\]: choose from 0 to 2"),
        watch(decoder_of("llama"), print, {3, -1}),
    ):
        pass


def test_hidden_states_are_found_among_keywords_too() -> None:
    class ByKeyword(PlainDecoder):
        def forward(self, tokens: Tensor) -> Tensor:
            h = self.embedding(tokens)
            for block in self.blocks:
                h = block(hidden_states=h)
            return h

    class Block(nn.Module):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return hidden_states + 1

    model = ByKeyword()
    model.blocks = nn.ModuleList(Block() for _ in range(2))
    states = states_of(find_decoder(model), torch.tensor([[1, 2]]))
    assert all(torch.equal(s.x + 1, s.y) for s in states.values())


# Running


def test_the_head_and_the_cache_stay_out_of_it_and_no_gradient_is_kept() -> None:
    decoder = find_decoder(tiny("llama"))
    asked: list[dict] = []
    decoder.model.lm_head.register_forward_pre_hook(lambda *_: pytest.fail("the head ran"))
    decoder.backbone.register_forward_pre_hook(lambda _m, _args, kwargs: asked.append(kwargs), with_kwargs=True)
    states = states_of(decoder, some_tokens(), torch.ones(2, 9))
    assert list(asked[0]) == ["input_ids", "use_cache"]
    assert asked[0]["use_cache"] is False
    assert not states[0].y.requires_grad
    assert not states[0].y.is_inference()


def test_positions_count_real_tokens() -> None:
    decoder = find_decoder(tiny("llama"))
    asked: list[dict] = []
    decoder.backbone.register_forward_pre_hook(lambda _m, _args, kwargs: asked.append(kwargs), with_kwargs=True)
    run(decoder, some_tokens(1, 4), torch.tensor([[0, 0, 1, 1]]))
    assert asked[0]["position_ids"].tolist() == [[0, 0, 0, 1]]


def test_dropout_is_off_and_the_mode_of_every_module_is_restored() -> None:
    model = tiny("gpt2").train()
    model.transformer.h[1].eval()
    modes = [module.training for module in model.modules()]
    states = states_of(find_decoder(model), some_tokens())
    assert torch.equal(states[2].y, states_of(decoder_of("gpt2"), some_tokens())[2].y)
    assert [module.training for module in model.modules()] == modes


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(LinscoreError, match=r"one shape, \[batch, seq\]"):
        run(decoder_of("llama"), some_tokens(), torch.ones(2, 8))


# Sub-blocks


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


# Refusing

_BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 64}
_DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 64}
_T5 = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 48, "d_kv": 8, "vocab_size": 64}


@pytest.mark.parametrize(
    "model",
    [
        lambda: transformers.BertModel(transformers.BertConfig(**_BERT)),
        lambda: transformers.BertLMHeadModel(transformers.BertConfig(**_BERT)),
        lambda: transformers.DistilBertModel(transformers.DistilBertConfig(**_DISTILBERT)),
        lambda: transformers.T5EncoderModel(transformers.T5Config(**_T5)),
    ],
    ids=["BertModel", "BertLMHeadModel", "DistilBertModel", "T5EncoderModel"],
)
def test_models_whose_tokens_see_later_tokens_are_refused(model) -> None:
    decoder = find_decoder(model().eval())
    with pytest.raises(LinscoreError, match="is not a decoder: at block 0 tokens see later tokens"):
        check_causal(decoder)


def test_bert_made_a_decoder_passes() -> None:
    check_causal(find_decoder(transformers.BertLMHeadModel(transformers.BertConfig(**_BERT, is_decoder=True)).eval()))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**_T5)), "is an encoder-decoder"),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU()), "ModuleList of two or more like blocks, found none"),
        (lambda: nn.Linear(3, 3), "ModuleList of two or more like blocks, found none"),
        (ImageStack, "no token embedding"),
        (lambda: nn.ModuleDict({"a": PlainDecoder(), "b": PlainDecoder()}), r"a.blocks \(3 × Linear\), b.blocks"),
        (lambda: nn.ModuleList([nn.Linear(3, 3), nn.ReLU()]), r"\(2 × Linear/ReLU\)"),
    ],
    ids=["T5", "CNN", "Linear", "CNN with a ModuleList", "two decoders", "unlike blocks"],
)
def test_what_is_no_decoder_is_refused_with_the_reason(model, reason: str) -> None:
    with pytest.raises(LinscoreError, match=reason):
        find_decoder(model())


def test_blocks_that_a_configuration_cuts_off_are_noticed() -> None:
    model = tiny("llama")
    decoder = find_decoder(model)
    model.config.num_hidden_layers = 2
    with pytest.raises(LinscoreError, match=r"block 2 of model\.layers does not run"):
        check_causal(decoder)


def test_a_stream_of_another_width_is_noticed() -> None:
    decoder = decoder_of("opt_350m")
    assert decoder.width == WIDTH
    assert decoder.model.get_input_embeddings().embedding_dim == 16
    wrong = Decoder(decoder.model, decoder.backbone, decoder.blocks, decoder.path, 16, decoder.name)
    with pytest.raises(LinscoreError, match=r"shape \[1, 8, 32\] where \[batch, seq, 16\]"):
        check_causal(wrong)


def test_states_that_are_not_finite_do_not_make_a_decoder_look_bidirectional() -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 3] = torch.inf
    check_causal(find_decoder(model))
