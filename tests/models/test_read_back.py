"""What was saved is compared with the model before it counts, by headers and names: weights are not read."""

import json

import pytest
import torch
from linear_models import random_map
from multimodal_models import multimodal
from safetensors.torch import load_file, save_file
from tiny_models import tiny

from linscore import LinscoreError
from linscore.models import read_back
from linscore.models.load import load
from linscore.models.read_back import check_saved
from linscore.surgery.linearize import linearize

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def no_weights(monkeypatch):
    """Loading for real, which is the last resort, would be an error."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("weights were read")

    monkeypatch.setattr(read_back, "load", refuse)


@pytest.mark.slow
@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("family", ["mixtral", "llava"])
def test_what_is_whole_is_accepted_without_reading_weights(family, tmp_path):
    """In several files, and from memory that is renamed and converted on the way."""
    whole = multimodal(family) if family == "llava" else tiny(family).to(torch.bfloat16)
    whole.save_pretrained(tmp_path / "whole")
    linear = linearize(load(tmp_path / "whole"), {1: random_map()})
    linear.save_pretrained(tmp_path / "linear", max_shard_size="20KB")
    assert len(list((tmp_path / "linear").glob("*.safetensors"))) > 1
    for folder, model in (("whole", whole), ("linear", linear)):
        check_saved(tmp_path / folder, model)


def rewrite(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def reconfigure(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: rewrite(f, lambda w: w.pop("model.layers.1.center")), "model.layers.1.center is missing"),
        (lambda f: rewrite(f, lambda w: w.update(other=torch.zeros(2))), "other is unexpected"),
        (
            lambda f: rewrite(f, lambda w: w.update({"model.layers.1.bias": torch.zeros(2)})),
            "layers.1.bias has another",
        ),
        (lambda f: reconfigure(f, num_hidden_layers=2), "describes 3 blocks of 2"),
        (lambda f: reconfigure(f, linear_blocks=[None] * 3), "missing"),
        (lambda f: reconfigure(f, vocab_size=99), "has another shape"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), "the folder"),
        (lambda f: (f / "model.safetensors").unlink(), "is missing"),
    ],
)
def test_what_would_load_as_something_else_is_refused(spoil, says, tmp_path):
    linear = linearize(tiny("llama"), {1: random_map()})
    linear.save_pretrained(tmp_path / "linear")
    spoil(tmp_path / "linear")
    with pytest.raises(LinscoreError, match=f"would not load as the model that it is.*{says}") as error:
        check_saved(tmp_path / "linear", linear)
    assert "\n" not in str(error.value)


def test_a_class_that_would_be_another_is_refused(tmp_path):
    model = tiny("qwen2")
    tiny("llama", vocab_size=64).save_pretrained(tmp_path)
    with pytest.raises(LinscoreError, match="would load as LlamaForCausalLM, not Qwen2ForCausalLM"):
        check_saved(tmp_path, model)
