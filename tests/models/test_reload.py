"""Saved models with linear blocks, loaded by linscore and by transformers alone; the oracle is the model in memory."""

import ast
import copy
import json
import pickle
import sys

import pytest
import torch
import transformers
from linear_models import logits, random_map, tokens
from reloading import linear_blocks, load_elsewhere
from tiny_models import FAMILIES, WIDTH, tiny
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from linscore import Moments, drop, find_decoder
from linscore.models.load import load, load_pretrained
from linscore.statistics.maps import fit_block_map
from linscore.surgery.linearize import linearize
from linscore.surgery.record import Record, Replacement
from linscore.surgery.save import save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread", "own_module_cache")


def greedy(model: PreTrainedModel, use_cache: bool) -> torch.Tensor:
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
    prompt = tokens()[:, :6]
    return model.generate(prompt, attention_mask=torch.ones_like(prompt), use_cache=use_cache, **options)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_both_loaders_give_the_model_in_memory(family, tmp_path):
    linear = linearize(tiny(family), {0: random_map(), 2: random_map(2)})
    linear.save_pretrained(tmp_path)
    expected, text = logits(linear, tokens()), greedy(linear, use_cache=True)
    tied = linear.get_output_embeddings().weight is linear.get_input_embeddings().weight
    own = load(tmp_path, device="cpu")
    for loaded in (own, load_elsewhere(tmp_path)):
        assert torch.equal(logits(loaded, tokens()), expected)
        assert torch.equal(greedy(loaded, use_cache=loaded is not own), text)
        assert linear_blocks(loaded) == [0, 2]
        assert not loaded.training
        assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == tied


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral", "gpt_oss", "mamba"])
@pytest.mark.parametrize("loader", [load, load_elsewhere])
def test_16_bits_keep_the_means_exactly(family, loader, tmp_path):
    fitted = random_map(mean=100.0)
    tiny(family).to(torch.bfloat16).save_pretrained(tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")  # whose rotary frequencies were not cast
    linear = linearize(plain, {1: fitted})
    linear.save_pretrained(tmp_path / "linear")
    loaded = loader(tmp_path / "linear", dtype="auto")
    block = find_decoder(loaded).blocks[1]
    assert torch.equal(block.center, fitted.mean_x.float())
    assert torch.equal(block.bias, fitted.mean_delta.float())
    assert block.weight.dtype is torch.bfloat16
    assert torch.equal(logits(loaded, tokens()), logits(linear, tokens()))


@pytest.mark.parametrize("loader", [load, load_elsewhere])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_dtype_asked_for_narrows_all_but_the_means(loader, dtype, llama):
    loaded = loader(llama, dtype=dtype)
    block = find_decoder(loaded).blocks[1]
    assert loaded.dtype is block.weight.dtype is getattr(torch, dtype)
    assert block.bias.dtype is block.center.dtype is torch.float32


def test_float16_is_computed_in_float32_on_a_cpu(tmp_path):
    linearize(tiny("llama").half(), {1: random_map()}).save_pretrained(tmp_path)
    assert load(tmp_path, device="cpu").dtype is torch.float32
    assert load(tmp_path, dtype="float16", device="cpu").dtype is torch.float16


@pytest.mark.parametrize("loader", [load, load_elsewhere])
def test_low_rank_and_diagonal_maps_keep_their_form(loader, tmp_path):
    moments = Moments(WIDTH, precision="exact")
    x = torch.randn(300, WIDTH, generator=torch.Generator().manual_seed(0))
    moments.update(x, random_map()(x).float())
    forms: list[dict] = [{"rank": 5}, {"kind": "mean"}, {"kind": "diagonal"}]
    maps = {index: fit_block_map(moments, **form) for index, form in enumerate(forms)}
    linear = linearize(tiny("qwen3"), maps)
    linear.save_pretrained(tmp_path)
    loaded = loader(tmp_path)
    assert torch.equal(logits(loaded, tokens()), logits(linear, tokens()))
    for index, fitted in maps.items():
        assert sum(p.numel() for p in find_decoder(loaded).blocks[index].parameters()) == fitted.parameters


@pytest.mark.slow
def test_a_reloaded_model_is_saved_linearized_and_cut_again(llama, tmp_path):
    for number, loader in enumerate((load, load_elsewhere)):
        loader(llama).save_pretrained(tmp_path / f"again{number}")
        assert torch.equal(logits(load(tmp_path / f"again{number}"), tokens()), logits(load(llama), tokens()))
        assert torch.equal(logits(load_elsewhere(tmp_path / f"again{number}"), tokens()), logits(load(llama), tokens()))
    more = linearize(load(llama), {2: random_map(2)})
    more.save_pretrained(tmp_path / "more")
    both = linearize(tiny("llama"), {1: random_map(), 2: random_map(2)})
    assert torch.equal(logits(load(tmp_path / "more"), tokens()), logits(both, tokens()))
    for gone in ([0], [0, 1], [1, 2]):
        cut = drop(more, gone)
        path = tmp_path / f"without{gone}"
        cut.save_pretrained(path)
        for loaded in (load(path), load_elsewhere(path)):
            assert torch.equal(logits(loaded, tokens()), logits(cut, tokens()))
            assert torch.equal(greedy(loaded, use_cache=True), greedy(loaded, use_cache=False))


def test_saving_over_its_own_folder_leaves_it_loadable(llama):
    expected = logits(load(llama), tokens())
    load(llama).save_pretrained(llama)
    assert torch.equal(logits(load_elsewhere(llama), tokens()), expected)


def test_copies_and_pickles_are_the_model():
    linear = linearize(tiny("gemma2"), {1: random_map()})
    for same in (copy.deepcopy(linear), pickle.loads(pickle.dumps(linear))):
        assert type(same) is type(linear)
        assert same.config.to_dict() == linear.config.to_dict()
        assert torch.equal(logits(same, tokens()), logits(linear, tokens()))


def test_models_of_one_name_and_different_families_load_side_by_side(tmp_path):
    for family in ("llama", "gpt2"):
        linear = linearize(tiny(family), {1: random_map()})
        linear.save_pretrained(tmp_path / family / "model")
        assert torch.equal(logits(load_elsewhere(tmp_path / family / "model"), tokens()), logits(linear, tokens()))


def test_the_code_in_the_folder_needs_torch_and_transformers_only(llama):
    found = set()
    for path in llama.glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        found |= {"." * node.level + node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
        found |= {name.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for name in node.names}
    assert found - set(sys.stdlib_module_names) == {"torch", "transformers", ".linear_block", ".linear_parts"}
    assert sorted(file.suffix for file in llama.iterdir()) == [".json", ".json", *3 * [".py"], ".safetensors"]


def test_names_say_what_the_folder_holds(llama):
    values = json.loads((llama / "config.json").read_text())
    assert values["architectures"] == ["LinearizedLlamaForCausalLM"]  # transformers' own of a name would load at random
    assert load_elsewhere(llama).config.model_type == load(llama).config.model_type == "llama"
    assert {"LinearLlamaDecoderLayer", "LlamaDecoderLayer"} <= set(load(llama)._no_split_modules)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("loader", [load, load_elsewhere])
def test_a_reloaded_model_trains_with_checkpointing(family, loader, tmp_path):
    linear = linearize(tiny(family), {1: random_map()})
    linear.save_pretrained(tmp_path)
    loaded = loader(tmp_path)
    loaded.gradient_checkpointing_enable()
    for model in (linear, loaded):
        for module in model.train().modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model(tokens(), labels=tokens(), use_cache=False).loss.backward()
    expected = {name: p.grad for name, p in linear.named_parameters()}
    for name, parameter in loaded.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-7)
    assert expected[f"{find_decoder(linear).path}.1.weight"].abs().max() > 0


def test_generation_settings_are_kept(tmp_path):
    model = tiny("llama")
    model.generation_config.max_new_tokens = 3
    linearize(model, {1: random_map()}).save_pretrained(tmp_path)
    for loaded in (load(tmp_path), load_elsewhere(tmp_path)):
        assert loaded.generation_config.max_new_tokens == 3


def test_a_checkpoint_scores_like_any_other(tmp_path):
    embedded = load_pretrained(device="cpu")
    decoder = find_decoder(embedded.model)
    linear = linearize(embedded.model, {1: random_map(width=decoder.width)})
    replaced = Replacement("1", "linear", 1)
    record = Record("linearize", "embedded", [replaced], *[len(decoder.blocks)] * 2, 0, 0, 0, 0)
    save_checkpoint(tmp_path, linear, embedded.tokenizer)
    record.save(tmp_path)
    loaded = load_pretrained(str(tmp_path), device="cpu")
    ids = torch.tensor([embedded.tokenizer("def f(x): return x")["input_ids"]])
    assert torch.equal(logits(loaded.model, ids), logits(linear.float(), ids))
    assert loaded.tokenizer("def f(x): return x")["input_ids"] == ids[0].tolist()
    assert (loaded.context, loaded.stored) == (embedded.context, embedded.stored)
    assert Record.load(tmp_path) == record
    assert len(AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)) == len(embedded.tokenizer)


def test_a_headless_model_and_one_of_a_class_of_its_own(tmp_path):
    model = tiny("llama").model
    linear = linearize(model, {1: random_map()})
    linear.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(tokens())[0], linear(tokens())[0])

    class Own(transformers.LlamaForCausalLM):
        pass

    own = linearize(Own(tiny("llama").config), {1: random_map()})
    assert logits(own, tokens()).isfinite().all()
    with pytest.raises(ValueError, match="Own is not part of transformers"):
        own.save_pretrained(tmp_path / "own")
    with pytest.raises(ValueError, match="push_to_hub"):
        linear.save_pretrained(tmp_path / "own", push_to_hub=True)
    assert not (tmp_path / "own").exists()
