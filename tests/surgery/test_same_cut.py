"""What others are told: slices worked out by hand, and mergekit itself, whose cut is compared tensor for tensor."""

import logging

import pytest
import torch
import yaml
from cut_models import tokens
from linear_models import random_map
from safetensors.torch import load_file
from tiny_models import tiny
from transformers import AutoModelForCausalLM

import linscore
from linscore.decoder.find import find_decoder
from linscore.surgery.drop_blocks import cut_on_paper
from linscore.surgery.same_cut import same_cut

MIXED = ["sliding_attention", "full_attention", "sliding_attention"]


def of(model, gone, name="org/model"):
    decoder = find_decoder(model)
    _, cut = cut_on_paper(decoder, gone)
    return same_cut(name, gone, len(decoder.blocks), torch.bfloat16, model.config, cut.config)


def test_a_slice_for_each_run_of_survivors():
    assert of(tiny("llama", num_hidden_layers=8), [5, 0, 4]).yaml() == (
        "merge_method: passthrough\n"
        "slices:\n"
        "- sources:\n"
        "  - model: org/model\n"
        "    layer_range: [1, 4]\n"
        "- sources:\n"
        "  - model: org/model\n"
        "    layer_range: [6, 8]\n"
        "dtype: bfloat16\n"
    )


def test_llama_cpp_is_told_numbers_in_order():
    same = of(tiny("llama", num_hidden_layers=8), [5, 0, 4])
    assert same.llama_cpp == "llama-quantize --prune-layers 0,4,5 model.gguf cut.gguf COPY"
    assert same.config == {"num_hidden_layers": 5}


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_a_dtype_that_mergekit_does_not_know_is_left_out(dtype):
    config = tiny("llama").config
    assert set(same_cut("m", [1], 3, dtype, config, config).mergekit) == {"merge_method", "slices"}


@pytest.mark.parametrize("name", ["runs/a+b", "org/model@main", "my models/a: b", "yes", "größer"])
def test_any_folder_is_read_as_its_name(name):
    (part, _) = yaml.safe_load(of(tiny("llama"), [1], name).yaml())["slices"]
    told = part["sources"][0]["model"]
    assert told == ({"model": {"path": name}} if {"+", "@"} & set(name) else name)


def test_lists_with_an_entry_for_each_block_are_said():
    model = tiny("gemma3", layer_types=MIXED)
    last = of(model, [2])
    assert last.config == {"num_hidden_layers": 2, "layer_types": MIXED[:2]}
    assert last.llama_cpp  # what stays is what was there before
    first = of(model, [0])
    assert first.config == {"num_hidden_layers": 2, "layer_types": MIXED[1:]}
    assert first.llama_cpp is None
    assert of(tiny("qwen3"), [0]).llama_cpp  # all of one kind


def test_linear_blocks_are_nobody_elses():
    linear = linscore.linearize(tiny("llama"), {1: random_map()})
    assert same_cut("m", [0], 3, None, linear.config, linscore.drop(linear, [0]).config) is None


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("family", "gone", "says"),
    [
        ("llama", [1], True),
        ("llama", [0], True),
        ("gpt2", [2], True),
        ("olmo2", [0, 2], True),
        ("mamba", [1], True),
        ("opt", [1], False),  # of these mergekit has no description, and leaves the number of blocks as it was
        ("smollm3", [0], False),
    ],
)
def test_mergekit_makes_the_same_cut_of_it(family, gone, says, tmp_path):
    merge = pytest.importorskip("mergekit.merge", reason="mergekit is not installed: it is in the extra dev")
    from mergekit.config import MergeConfiguration
    from mergekit.options import MergeOptions

    logging.getLogger("mergekit").setLevel(logging.ERROR)
    model, whole = tiny(family), str(tmp_path / "whole")
    model.save_pretrained(whole)
    same = of(model, gone, whole)
    told = yaml.safe_load(same.yaml()) | {"dtype": "float32"}
    merge.run_merge(
        MergeConfiguration.model_validate(told),
        str(tmp_path / "theirs"),
        MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True),
    )
    cut = linscore.drop(model, gone)
    cut.save_pretrained(tmp_path / "ours")
    ours, theirs = (
        {k: v for f in (tmp_path / n).glob("*.safetensors") for k, v in load_file(f).items()}
        for n in ("ours", "theirs")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").config.to_dict()
    assert all(config[key] == value for key, value in same.config.items()) == says
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", **same.config).eval()
    with torch.no_grad():
        assert torch.equal(loaded(tokens()).logits, cut(tokens()).logits)
