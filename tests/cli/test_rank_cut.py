"""`linscore rank --drop N --format TOOL`: what is printed is what the tool reads, of the blocks that prune drops."""

import json
from pathlib import Path

import pytest
import yaml
from commands import refused

from linscore.jobs.prune import run_prune
from linscore.jobs.score import run_score
from linscore.options.cut import CutOptions
from linscore.options.text import TextOptions
from linscore.surgery.record import Record


@pytest.mark.slow
@pytest.mark.parametrize(("drop", "by"), [("1", "cka"), ("2", "bi")])
def test_the_blocks_are_those_that_prune_drops_and_its_record_says_the_same(run, scored, tmp_path, drop, by):
    code, out, _ = run("rank", scored, "--drop", drop, "--by", by, "--format", "json")
    assert code == 0
    found = json.loads(out)
    record = run_prune(
        found["model"], out=str(tmp_path / "cut"), cut=CutOptions(blocks=drop, by=by, moments=scored)
    ).record
    assert found["drop"] == record.choice["blocks"]
    assert found["figures"] == record.choice["figures"]
    assert sorted(found["drop"] + found["survivors"]) == [0, 1, 2]
    assert found["same_cut"] == json.loads(record.to_json())["same_cut"]
    assert Record.load(tmp_path / "cut").same_cut == record.same_cut


def test_what_goes_to_mergekit_is_yaml_and_what_it_leaves_undone_is_beside_it(run, scored):
    code, out, err = run("rank", scored, "--drop", "1,", "--format", "mergekit")
    assert code == 0
    content = yaml.safe_load(out)
    assert content["merge_method"] == "passthrough"
    assert [one["sources"][0]["layer_range"] for one in content["slices"]] == [[0, 1], [2, 3]]
    assert content["dtype"] == "float32"
    assert 'config.json of the result must say {"num_hidden_layers": 2}' in err


@pytest.mark.slow
def test_a_folder_is_said_to_be_one(run, model_folder, text, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(model_folder).parent)
    run_score(Path(model_folder).name, text=TextOptions(text=text, seq_len=16), out=str(tmp_path / "s"))
    _, out, _ = run("rank", tmp_path / "s", "--drop", "1,", "--format", "mergekit")
    assert {one["sources"][0]["model"] for one in yaml.safe_load(out)["slices"]} == {"./tiny-llama"}


def test_what_goes_to_llama_cpp_is_its_command(run, scored):
    expected = "llama-quantize --prune-layers 0,2 model.gguf cut.gguf COPY\n"
    assert run("rank", scored, "--drop", "2,0", "--format", "llama.cpp")[:2] == (0, expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--drop", 1], ["--drop and --format belong together"]),
        (["--format", "json"], ["--drop and --format belong together"]),
        (["--drop", 1, "--format", "json", "--json"], ["not to --json"]),
        (["--drop", "0,", "--by", "cka", "--format", "json"], ["leave out --by and --span"]),
        (["--drop", 1, "--by", "perplexity", "--format", "json"], ["give --text or --dataset"]),
        (["--drop", 4, "--format", "json"], ["4 blocks are to go, but 3 were scored"]),
        (["--drop", "7,", "--format", "json"], ["has no blocks [7]"]),
        (["--drop", "0-2", "--format", "json"], ["leave at least one"]),
    ],
)
def test_what_cannot_be_cut_is_said_in_one_line(run, scored, options, words):
    refused(run("rank", scored, *options), *words)


@pytest.mark.slow
def test_a_text_measures_as_prune_does(run, scored, text):
    code, out, _ = run("rank", scored, "--drop", 1, "--text", text, "--tokens", 200, "--format", "json")
    assert code == 0
    assert json.loads(out)["by"] == "perplexity"


@pytest.fixture
def shallower(model_folder):
    """The folder of the model, for one of two blocks."""
    path = Path(model_folder) / "config.json"
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text) | {"num_hidden_layers": 2}))
    yield
    path.write_text(text)


@pytest.mark.usefixtures("shallower")
def test_another_model_than_was_scored_is_refused(run, scored):
    refused(run("rank", scored, "--drop", "1,", "--format", "json"), "were scored on a model of 3 blocks")
