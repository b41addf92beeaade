"""Saved models of whose blocks parts are gone or maps, loaded by both loaders; the oracle is the model in memory."""

import copy
import json
import pickle

import pytest
import torch
from caches import logits_by_cache
from linear_models import logits, random_map, tokens
from reloading import load_elsewhere
from tiny_models import shared, tiny
from transformers import AutoModel

from linscore import LinscoreError, Moments, drop, find_decoder
from linscore.models.linear_parts import Idle, StandIn
from linscore.models.load import load
from linscore.statistics.maps import fit_block_map
from linscore.surgery.linearize import replace_units

pytestmark = pytest.mark.usefixtures("one_thread", "own_module_cache")
QUICK = ["llama", "bloom"]
MORE = ["gpt2", "gptj", "falcon", "mpt", "opt", "gemma2", "mixtral", "gpt_oss"]


def cut_of(family: str, of=shared):
    return replace_units(of(family), {"0.attention": None, "1.mlp": random_map(1), "2": random_map(2)})


def greedy(model) -> torch.Tensor:
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    return model.generate(tokens()[:, :6], attention_mask=torch.ones(2, 6), **options)


@pytest.mark.parametrize("family", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_both_loaders_give_the_model_in_memory(family, tmp_path):
    cut = cut_of(family)
    cut.save_pretrained(tmp_path)
    expected, text = logits(cut, tokens()), greedy(cut)
    for loaded in (load(tmp_path, device="cpu"), load_elsewhere(tmp_path)):
        assert torch.equal(logits(loaded, tokens()), expected)
        assert torch.equal(greedy(loaded), text)
        torch.testing.assert_close(logits_by_cache(loaded, tokens()), expected, rtol=1e-4, atol=1e-4)


def test_the_model_without_its_head_loads_too(tmp_path):
    cut = cut_of("llama")
    cut.save_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    with torch.no_grad():
        found, expected = (model(tokens()).last_hidden_state for model in (base, cut.base_model))
    assert torch.equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "diagonal", "mean", "low-rank"])
def test_every_form_of_map_comes_back(kind, tmp_path):
    moments = Moments(32, precision="exact")
    x = torch.randn(200, 32)
    moments.update(x, x + torch.tanh(x) + 0.2)
    fitted = fit_block_map(moments, rank=3) if kind == "low-rank" else fit_block_map(moments, kind=kind)
    cut = replace_units(shared("gpt2"), {"1.attention": fitted, "2.mlp": fitted})
    stand_in = find_decoder(cut).blocks[2].mlp
    assert sum(parameter.numel() for parameter in stand_in.parameters()) == fitted.parameters
    cut.save_pretrained(tmp_path)
    assert torch.equal(logits(load(tmp_path, device="cpu"), tokens()), logits(cut, tokens()))


def test_16_bits_keep_the_means(tmp_path):
    fitted = random_map(mean=100.0)
    cut = replace_units(tiny("llama").to(torch.bfloat16), {"1.mlp": fitted})
    cut.save_pretrained(tmp_path)
    for model in (cut, load(tmp_path, device="cpu"), load_elsewhere(tmp_path, dtype="auto")):
        held = find_decoder(model).blocks[1].mlp.fitted
        assert held.weight.dtype == torch.bfloat16
        assert torch.equal(held.center, fitted.mean_x.float())
        assert torch.equal(held.bias, fitted.mean_delta.float())


def test_copies_and_pickles_are_the_same_model():
    cut = cut_of("gptj", tiny)  # whoever asks a shared model for its hidden states leaves hooks that no pickle takes
    for again in (copy.deepcopy(cut), pickle.loads(pickle.dumps(cut))):
        assert torch.equal(logits(again, tokens()), logits(cut, tokens()))
        assert type(find_decoder(again).blocks[1]) is type(find_decoder(cut).blocks[1])


def test_blocks_can_be_dropped_from_what_was_loaded(tmp_path):
    cut_of("llama").save_pretrained(tmp_path)
    shallow = drop(load(tmp_path, device="cpu"), [2])
    shallow.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load(tmp_path / "again", device="cpu"), tokens()), logits(shallow, tokens()))
    kinds = [[type(module) for module in block.modules() if isinstance(module, Idle | StandIn)] for block in
             find_decoder(shallow).blocks]  # fmt: skip
    assert kinds == [[StandIn, Idle], [StandIn, Idle]]


@pytest.mark.parametrize(
    "damage",
    [
        {"mlp": {"at": "nothing", "factors": None, "rank": None, "entries": None, "entering": False, "within": False}},
        {"mlp": {"at": "mlp"}, "idle": {}},
        {"idle": {"mlp": None}},
        {"idle": 5},
        {"mlp": {"at": "mlp", "factors": None, "rank": None, "entries": 10**9, "entering": False, "within": False}},
    ],
)
def test_a_damaged_description_is_one_line(damage, tmp_path):
    cut_of("llama").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["linear_blocks"][1] = {"idle": {}, **damage}
    path.write_text(json.dumps(values))
    with pytest.raises(LinscoreError, match="linearize the model again") as caught:
        load(tmp_path, device="cpu")
    assert "\n" not in str(caught.value)
