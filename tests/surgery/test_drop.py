"""Dropped blocks in tiny models of every family; the oracle is the original, with `forward` of blocks made idle."""

import pytest
import torch
import transformers
from cut_models import MIXED, cut_of, doing_nothing, inputs_and_logits, logits, model_of, tokens
from decoders import PlainDecoder
from rare_models import llama4, qwen3_next, random_model
from tiny_models import DEPTH, FAMILIES, VOCABULARY, WIDTH, tiny
from transformers import PreTrainedConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer

from linscore import LinscoreError, drop, find_decoder
from linscore.surgery.structure import cut_config

every_family = pytest.mark.parametrize("family", FAMILIES)
pytestmark = pytest.mark.usefixtures("one_thread")
every_cut = pytest.mark.parametrize("gone", [[0], [1], [2], [0, 2], [1, 2]], ids=str)


@pytest.mark.slow
@every_cut
@every_family
def test_states_and_logits_are_those_of_the_original_with_the_blocks_doing_nothing(family, gone):
    model = model_of(family)
    with doing_nothing(model, gone):
        entered, expected = inputs_and_logits(model, tokens())
    assert (expected - logits(model, tokens())).abs().max() > 1e-2  # these blocks do something
    cut = cut_of(family, *gone)
    found_states, found = inputs_and_logits(cut, tokens())
    survivors = [index for index in range(DEPTH) if index not in gone]
    assert len(found_states) == len(survivors)
    for new, old in enumerate(survivors):
        torch.testing.assert_close(found_states[new], entered[old])
    torch.testing.assert_close(found, expected)


@every_family
def test_blocks_are_numbered_from_zero_wherever_the_number_is(family):
    cut = cut_of(family, 0)
    blocks = find_decoder(cut).blocks
    for index, block in enumerate(blocks):
        numbers = {
            getattr(module, name)
            for module in block.modules()
            for name in ("layer_idx", "layer_id")
            if getattr(module, name, None) is not None
        }
        assert numbers <= {index}
    assert cut.config.num_hidden_layers == len(blocks) == DEPTH - 1


@pytest.mark.slow
@every_family
def test_the_original_stays_as_it_was_and_shares_nothing(family):
    model = model_of(family)
    before = logits(model, tokens())
    cut = drop(model, [1])
    with torch.no_grad():
        for tensor in cut.parameters():
            tensor.zero_()
    assert model.config.num_hidden_layers == len(find_decoder(model).blocks) == DEPTH
    assert torch.equal(logits(model, tokens()), before)


def test_per_block_lists_lose_the_entries_of_the_blocks_that_go():
    assert drop(model_of("qwen2"), [0]).config.layer_types == MIXED[1:]
    assert drop(model_of("smollm3"), [0]).config.no_rope_layers == [0, 1]
    neo = drop(model_of("gpt_neo"), [0]).config
    assert neo.attention_layers == ["local", "global"]
    assert neo.expand_attention_types_params(neo.attention_types) == ["local", "global"]


def test_dtype_mode_and_frozen_weights_are_kept():
    model = tiny("llama").to(torch.bfloat16).train()
    model.model.embed_tokens.weight.requires_grad_(False)
    model.model.norm.float()
    cut = drop(model, [0])
    assert cut.training
    assert not cut.model.embed_tokens.weight.requires_grad
    assert cut.model.layers[0].mlp.up_proj.weight.requires_grad
    assert cut.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert cut.model.norm.weight.dtype == torch.float32


def test_a_cut_can_be_cut_again():
    once, twice = drop(model_of("gpt2"), [0, 1]), drop(drop(model_of("gpt2"), [0]), [0])
    assert torch.equal(logits(once, tokens()), logits(twice, tokens()))


def test_a_model_without_head_is_cut_too(tmp_path):
    cut = drop(model_of("llama").model, [0])
    with torch.no_grad():
        found, expected = cut(tokens())[0], drop(model_of("llama"), [0]).model(tokens())[0]
        cut.save_pretrained(tmp_path)
        reloaded = transformers.AutoModel.from_pretrained(tmp_path)(tokens())[0]
    assert torch.equal(found, expected)
    assert torch.equal(reloaded, expected)


def test_blocks_that_share_a_module_can_be_cut():
    model = random_model(transformers.OpenAIGPTConfig(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=DEPTH, n_head=4))
    with doing_nothing(model, [0]):
        expected = model(tokens()).logits
    torch.testing.assert_close(drop(model, [0])(tokens()).logits, expected)


def test_the_text_decoder_of_a_multimodal_model_is_cut(tmp_path):
    text = {**tiny("gemma3").config.to_dict(), "layer_types": MIXED}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.Gemma3ForConditionalGeneration(config).eval()
    with doing_nothing(model, [0]):
        expected = logits(model, tokens())
    cut = drop(model, [0])
    torch.testing.assert_close(logits(cut, tokens()), expected)
    assert cut.config.text_config.layer_types == MIXED[1:]
    assert cut.config.vision_config.num_hidden_layers == 2
    cut.save_pretrained(tmp_path)
    reloaded = transformers.Gemma3ForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(logits(reloaded, tokens()), logits(cut, tokens()))


def test_a_mixture_of_experts_in_every_block_can_be_cut():
    model = llama4(moe_layers=[0, 1, 2], no_rope_layers=[1, 0, 1])
    with doing_nothing(model, [0]):
        expected = logits(model, tokens())
    cut = drop(model, [0])
    torch.testing.assert_close(logits(cut, tokens()), expected)
    assert (cut.config.moe_layers, cut.config.no_rope_layers) == ([0, 1], [0, 1])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mlp_only_layers": [1]}, "mlp_only_layers"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step"),
    ],
)
def test_experts_by_index_are_refused(changes, reason):
    with pytest.raises(LinscoreError, match=reason):
        drop(tiny("qwen3_moe", **changes), [0])


@pytest.mark.parametrize("blocks", [1, "1", [1.0], None])
def test_what_names_no_blocks_is_refused(blocks):
    with pytest.raises(LinscoreError, match="give a list of whole numbers"):
        drop(tiny("llama"), blocks)


def test_interleaved_experts_of_llama4_are_refused():
    with pytest.raises(LinscoreError, match="moe_layers"):
        drop(llama4(interleave_moe_layer_step=2), [0])


def test_a_hybrid_keeps_an_attention_block():
    model = qwen3_next()
    with pytest.raises(LinscoreError, match="attention"):
        drop(model, [1])
    with doing_nothing(model, [0]):
        expected = logits(model, tokens())
    torch.testing.assert_close(logits(drop(model, [0]), tokens()), expected)


def test_attention_scaled_by_the_index_is_refused_where_an_index_changes():
    model = tiny("gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(LinscoreError, match="index"):
        drop(model, [0])
    with doing_nothing(model, [2]):
        expected = logits(model, tokens())
    torch.testing.assert_close(logits(drop(model, [2]), tokens()), expected)


def test_an_index_used_inside_a_forward_is_found_by_running(monkeypatch):
    forward = LlamaDecoderLayer.forward

    def scaled(self, *args, **kwargs):
        return forward(self, *args, **kwargs) * (1 + self.self_attn.layer_idx)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", scaled)
    with pytest.raises(LinscoreError, match="index"):
        drop(tiny("llama"), [0])


def test_a_setting_by_index_that_short_texts_do_not_show_is_found(monkeypatch):
    init = LlamaAttention.__init__

    def windowed(self, config, layer_idx):
        init(self, config, layer_idx)
        self.window = 1000 * (layer_idx + 1)

    monkeypatch.setattr(LlamaAttention, "__init__", windowed)
    with pytest.raises(LinscoreError, match="window would turn from 2000 into 1000"):
        drop(tiny("llama"), [0])
    assert len(drop(tiny("llama"), [2]).model.layers) == 2


@pytest.mark.parametrize(
    ("gone", "reason"),
    [([0, 1, 2], "all 3 blocks"), ([3], r"no blocks \[3\]"), ([-1], r"no blocks \[-1\]"), ([1, 1], "more than once")],
)
def test_impossible_choices_are_one_line(gone, reason):
    with pytest.raises(LinscoreError, match=reason) as caught:
        drop(model_of("llama"), gone)
    assert "\n" not in str(caught.value)


def test_a_model_of_another_library_is_refused():
    with pytest.raises(LinscoreError, match="no transformers model"):
        drop(PlainDecoder(), [0])


def test_a_model_that_is_not_all_there_is_refused():
    model = tiny("llama")
    model.model.layers[1].to("meta")
    with pytest.raises(LinscoreError, match="one device"):
        drop(model, [0])


@pytest.mark.parametrize("encoder", [2, 4])
def test_a_decoder_that_counts_its_blocks_by_another_name_is_cut_and_loads_again(encoder, tmp_path):
    heads = {"decoder_attention_heads": 4, "encoder_attention_heads": 4, "decoder_ffn_dim": 48}
    sizes = {"d_model": WIDTH, "encoder_layers": encoder, "decoder_layers": 4, "max_position_embeddings": 64}
    config = transformers.BartConfig(vocab_size=VOCABULARY, init_std=0.2, **heads, **sizes)
    model = transformers.BartForCausalLM(config).eval()
    with doing_nothing(model, [1]):
        expected = logits(model, tokens())
    cut = drop(model, [1])
    assert (cut.config.decoder_layers, cut.config.encoder_layers) == (3, 2 if encoder == 2 else 3)
    torch.testing.assert_close(logits(cut, tokens()), expected)
    cut.save_pretrained(tmp_path)
    assert torch.equal(logits(type(cut).from_pretrained(tmp_path), tokens()), logits(cut, tokens()))


def test_indices_of_attention_blocks_are_numbered_anew():
    config = PreTrainedConfig(num_hidden_layers=5, attn_layer_indices=[1, 4], hybrid_layer_ids=[0, 3])
    cut = cut_config(config, [0, 3, 4], 5, ["num_hidden_layers"])
    assert (cut.num_hidden_layers, cut.attn_layer_indices, cut.hybrid_layer_ids) == (3, [2], [0, 1])


def test_whatever_a_family_raises_while_it_is_built_is_a_refusal(monkeypatch):
    model = tiny("llama")

    def fail(*_):
        raise NotImplementedError("not of this depth")

    monkeypatch.setattr(type(model), "__init__", fail)
    with pytest.raises(LinscoreError, match=r"cannot be built without these blocks \(not of this depth\)"):
        drop(model, [0])


def test_a_model_whose_depth_no_field_says_is_refused():
    model = tiny("llama")
    model.config.num_hidden_layers = 7
    with pytest.raises(LinscoreError, match="no field of its configuration says how many blocks"):
        drop(model, [0])
