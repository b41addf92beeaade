"""What loads as it is, what is refused in one line, and whose code runs."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers
from linear_models import logits, random_map, tokens
from reloading import linear_blocks, load_elsewhere
from safetensors.torch import load_file, save_file
from tiny_models import DEPTH, tiny
from transformers import AutoConfig, AutoModelForCausalLM

from linscore import LinscoreError, find_decoder
from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.models.linear_block import LinearBlock
from linscore.models.load import load, load_pretrained, load_tokenizer
from linscore.surgery.linearize import linearize

pytestmark = pytest.mark.usefixtures("one_thread", "own_module_cache")


def change_config(path: Path, change) -> None:
    file = path / "config.json"
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def test_without_trust_nothing_is_loaded_with_random_blocks(llama):
    for loader in (AutoConfig, AutoModelForCausalLM):
        with pytest.raises(ValueError, match="trust_remote_code"):
            loader.from_pretrained(llama, trust_remote_code=False)


def test_linscore_runs_no_code_from_a_folder(llama):
    with (llama / "modeling_linscore.py").open("a") as file:
        file.write("\nraise SystemExit('run')\n")
    assert linear_blocks(load(llama)) == [1]


@pytest.fixture
def quantized(tmp_path):
    """A folder that says that its weights are those of bitsandbytes."""
    tiny("llama").save_pretrained(tmp_path)
    how = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    change_config(tmp_path, lambda values: values.update(quantization_config=how))
    return str(tmp_path)


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_a_package_that_quantized_weights_need_is_named(quantized):
    with pytest.raises(LinscoreError, match=r"needs a package that is not here .*bitsandbytes.*install that") as error:
        load(quantized, device="cpu")
    assert "\n" not in str(error.value)


def test_quantized_weights_are_not_streamed(quantized):
    with pytest.raises(LinscoreError, match=r"is quantized, .* not read block by block: give `placement=map`"):
        load_pretrained(quantized, device="cpu", placement="stream")


def test_a_plain_folder_loads_as_it_is(tmp_path):
    tiny("gpt2").save_pretrained(tmp_path)
    loaded = load(str(tmp_path), device="cpu")
    assert type(loaded) is transformers.GPT2LMHeadModel
    assert torch.equal(logits(loaded, tokens()), logits(tiny("gpt2"), tokens()))
    assert load(EMBEDDED_MODEL).config.model_type


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("linscore"), "does not say the family"),
        (lambda c: c["linscore"].update(model_type="nothing"), "does not say the family"),
        (lambda c: c["linscore"].update(architecture="Nothing"), "no model 'Nothing'"),
        (lambda c: c["linscore"].update(architecture="AutoConfig"), "no model 'AutoConfig'"),
        (lambda c: c["linscore"].update(path="model.nothing"), "are damaged"),
        (lambda c: c["linscore"].update(width=16), r"model.layers.1.\w+ is \[32.*not \[16"),
        (lambda c: c.pop("linear_blocks"), "are damaged"),
        (lambda c: c["linear_blocks"].pop(), "describes 2 blocks of 3"),
        (lambda c: c["linear_blocks"][1].update(factors=["up"]), "unknown form"),
        (lambda c: c["linear_blocks"][1].update(factors=["scale"]), "model.layers.1.scale is missing"),
        (lambda c: c["linear_blocks"].__setitem__(1, None), r"model.layers.1.\S+ is missing"),
        (lambda c: c["linear_blocks"].__setitem__(1, {}), "are damaged"),
        (lambda c: c["linear_blocks"].reverse() or c["linear_blocks"].__setitem__(0, c["linear_blocks"][1]), "missing"),
        (lambda c: c.update(num_hidden_layers="three"), "num_hidden_layers"),
    ],
)
def test_a_damaged_configuration_is_said_in_one_line(change, says, llama):
    change_config(llama, change)
    with pytest.raises(LinscoreError, match=says) as error:
        load(llama)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("model.layers.1.center"), "model.layers.1.center is missing"),
        (lambda w: w.update({"model.layers.1.weight": torch.zeros(16, 16)}), r"weight is \[16, 16\], not \[32, 32\]"),
        (lambda w: w.update({"model.layers.1.extra": torch.zeros(1)}), "model.layers.1.extra is unexpected"),
    ],
)
def test_weights_that_do_not_fit_are_said_in_one_line(change, says, llama):
    weights = load_file(llama / "model.safetensors")
    change(weights)
    save_file(weights, llama / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LinscoreError, match=says) as error:
        load(llama)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=says):
        load_elsewhere(llama)


def test_what_is_no_whole_folder_is_said_in_one_line(llama, tmp_path):
    weights = llama / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for path in (llama, tmp_path / "nothing", tmp_path):
        with pytest.raises(LinscoreError) as error:
            load(path)
        assert "\n" not in str(error.value)
    weights.unlink()
    with pytest.raises(LinscoreError):
        load(llama)
    (llama / "config.json").write_text("{")
    with pytest.raises(LinscoreError):
        load(llama)
    with pytest.raises(LinscoreError, match="`dtype` is 'int3'"):
        load(EMBEDDED_MODEL, dtype="int3")


def test_a_model_loaded_with_its_own_code_is_not_linearized_again(llama):
    with pytest.raises(LinscoreError, match=r"linscore\.load"):
        linearize(load_elsewhere(llama), {0: random_map()})


def test_linear_blocks_in_the_reloaded_model_are_linscores_own(llama):
    assert isinstance(find_decoder(load(llama)).blocks[1], LinearBlock)
    assert len(find_decoder(load(llama)).blocks) == DEPTH


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", None),
        ("config.json", {"text_config": -1}),
        ("tokenizer_config.json", None),
        ("tokenizer_config.json", {"eos_token": []}),
        ("tokenizer_config.json", {"tokenizer_class": {}}),
        ("tokenizer_config.json", {"added_tokens_decoder": "x"}),
    ],
)
def test_what_a_damaged_folder_makes_transformers_raise_is_one_line(tmp_path, file, change):
    for path in EMBEDDED_MODEL.glob("*.json"):
        shutil.copy(path, tmp_path)
    values = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps([1] if change is None else values | change))
    read = load if file == "config.json" else load_tokenizer
    with pytest.raises(LinscoreError) as refused:
        read(str(tmp_path))
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "a\0b", "a" * 5000])
def test_a_name_that_no_file_system_takes_is_no_model(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LinscoreError, match="no model"):
        load(name)
