"""Sizes that a configuration declares are compared with what the folder holds before anything is built of them."""

import json
import os
import shutil
import time

import pytest
from own_code import FORMER, change
from torch import nn

import linscore
from linscore import LinscoreError
from linscore.models.declared import PARAMETERS_PER_BYTE, Weights, check_size, find_weights
from linscore.models.load import load_tokenizer, read_context

SOON = 10.0  # seconds: each of these took a minute and more, or gigabytes
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(FORMER / "model", tmp_path / "model")


def refused(read, folder, says):
    begin = time.perf_counter()
    with pytest.raises(LinscoreError, match=says) as error:
        read(str(folder))
    assert "\n" not in str(error.value)
    assert time.perf_counter() - begin < SOON


@pytest.mark.parametrize("count", [10**7, 10**15])
@pytest.mark.parametrize("read", [linscore.load, read_context])
def test_more_layers_than_tensors_are_refused(read, count, folder):
    change(folder / "config.json", num_hidden_layers=count)
    refused(read, folder, rf"says num_hidden_layers={count:,}, but its weights are \d+ tensors")


def test_a_few_more_layers_than_tensors_are_refused_too(folder):
    tensors = find_weights(folder).tensors
    change(folder / "config.json", num_hidden_layers=tensors + 1)
    refused(linscore.load, folder, rf"says {tensors + 1} layers, but its weights are {tensors} tensors")


@pytest.mark.parametrize("name", ["hidden_size", "intermediate_size", "vocab_size"])
def test_sizes_beyond_the_weights_are_refused(name, folder):
    change(folder / "config.json", **{name: 48 * 10**6})
    refused(linscore.load, folder, r"describes [\d,]+ parameters, but its weights have [\d,]+ bytes")


def test_a_linear_block_as_wide_as_somebody_says_is_refused(tmp_path):
    shutil.copytree(FORMER / "linear", tmp_path / "linear")
    about = json.loads((tmp_path / "linear" / "config.json").read_text())["linscore"]
    change(tmp_path / "linear" / "config.json", linscore=about | {"width": 12_000})
    refused(linscore.load, tmp_path / "linear", "of unknown form: .* width 12000")


def test_weights_of_one_bit_are_as_large_as_it_gets():
    model = nn.Linear(16, 4, bias=False)  # 64 parameters
    check_size(model, Weights(1, 64 // PARAMETERS_PER_BYTE), "it")
    with pytest.raises(LinscoreError, match="64 parameters"):
        check_size(model, Weights(1, 64 // PARAMETERS_PER_BYTE - 1), "it")


@pytest.mark.parametrize("read", [linscore.load, load_tokenizer])
def test_a_pipe_is_refused_and_not_waited_for(read, folder):
    (folder / "tokenizer_config.json").unlink()
    os.mkfifo(folder / "tokenizer_config.json")
    refused(read, folder, "tokenizer_config.json is no regular file")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "sub/part.safetensors", 3])
def test_an_index_names_files_beside_it(name, folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    refused(linscore.load, folder, "no file beside it")


def test_links_are_followed_as_in_the_cache_of_the_hub(folder, tmp_path):
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in folder.iterdir():
        (snapshot / path.name).symlink_to(os.path.relpath(path, snapshot))
    assert linscore.load_pretrained(str(snapshot)).model.num_parameters() == linscore.load(folder).num_parameters()


def test_a_configuration_as_large_as_a_disk_is_refused(folder):
    with (folder / "config.json").open("ab") as file:
        file.truncate(1 << 30)
    refused(read_context, folder, "config.json has more than")
