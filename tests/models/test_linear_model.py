"""The model without its head: what `AutoModel` loads of a folder, as servers do; the oracle is the model in memory."""

import json

import pytest
import torch
from linear_models import logits, random_map, tokens
from reloading import linear_blocks, load_elsewhere
from safetensors.torch import load_file, save_file
from tiny_models import tiny
from transformers import AutoConfig, AutoModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from linscore.models.load import load
from linscore.surgery.linearize import linearize

pytestmark = pytest.mark.usefixtures("one_thread", "own_module_cache")
QUICK = ["llama", "opt"]
MORE = ["gpt2", "bloom", "gptj", "falcon", "mpt", "gpt_neox", "gemma3", "phi", "mixtral", "gpt_oss", "mamba"]


def base_of(path, **kwargs):
    return AutoModel.from_pretrained(path, trust_remote_code=True, **kwargs)


@torch.no_grad()
def states(model):
    return model(tokens(), use_cache=False).last_hidden_state


@pytest.mark.parametrize("family", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_the_model_without_its_head_gives_the_states_of_the_whole(family, tmp_path):
    linear = linearize(tiny(family), {0: random_map(), 2: random_map(2)})
    linear.save_pretrained(tmp_path)
    base = base_of(tmp_path)
    assert type(base).__name__ == type(linear.base_model).__name__
    assert torch.equal(states(base), states(linear.base_model))
    assert linear_blocks(base) == [0, 2]
    assert not base.training
    assert {f"Linear{block.family.__name__}" for block in base.modules() if hasattr(block, "center")} <= set(
        base._no_split_modules
    )


def test_the_model_without_its_head_is_saved_as_what_it_is(llama, tmp_path):
    base = base_of(llama)
    base.save_pretrained(tmp_path / "base")
    assert json.loads((tmp_path / "base" / "config.json").read_text())["architectures"] == ["LinearizedLlamaModel"]
    for again in (base_of(tmp_path / "base"), load(tmp_path / "base", device="cpu"), load_elsewhere(tmp_path / "base")):
        assert torch.equal(states(again), states(base))
    assert torch.equal(
        logits(load_elsewhere(llama), tokens()), logits(load(llama), tokens())
    )  # the folder is as it was


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_weights_that_do_not_fit_are_said_of_the_model_without_its_head_too(change, llama):
    weights = load_file(llama / "model.safetensors")
    if change == "missing":
        del weights["model.layers.1.bias"]
    else:
        weights["model.layers.1.other"] = torch.ones(1)
    save_file(weights, llama / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"layers\.1\.\w+ is {change}"):
        base_of(llama)


def test_a_server_builds_it_without_memory_for_weights_and_fills_it_by_name(llama):
    """What vLLM's transformers backend does: parameters without memory, buffers where they are made."""
    accelerate = pytest.importorskip("accelerate")
    config = AutoConfig.from_pretrained(llama, trust_remote_code=True)
    assert list(config.auto_map) == ["AutoConfig", "AutoModel", "AutoModelForCausalLM"]  # the first of a model is taken
    for name, where in config.auto_map.items():
        assert name == "AutoConfig" or get_class_from_dynamic_module(where, llama).is_backend_compatible()
    with accelerate.init_empty_weights(include_buffers=False):
        base = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=True)
    assert all(parameter.is_meta for parameter in base.parameters())
    assert not any(buffer.is_meta for buffer in base.buffers())
    weights = {name.removeprefix("model."): value for name, value in load_file(llama / "model.safetensors").items()}
    weights.pop("lm_head.weight")
    base.layers[1].center.copy_(weights.pop("layers.1.center"))  # buffers are not assigned
    base.load_state_dict(weights, assign=True, strict=False)
    assert torch.equal(states(base.eval()), states(load(llama, device="cpu").base_model))
