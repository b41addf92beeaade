"""`linscore prune` on the decoder that ships with linscore, and every way in which it refuses."""

import json

import pytest
import torch
from asked import asked
from commands import TEXT, embedded, refused
from cut_models import doing_nothing, logits
from tiny_models import tiny
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedModel

from linscore.embedded.shipped import EMBEDDED_MODEL

BY = ("--by", "linearity_heldout")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A report of the embedded decoder, on a few thousand tokens."""
    from linscore.jobs.score import run_score

    folder = tmp_path_factory.mktemp("scores") / "embedded"
    asked(run_score)(tokens=4000, seq_len=100, device="cpu", out=str(folder))
    return folder


def check_is_embedded_without(folder, gone):
    """The folder is a plain checkpoint that computes what the embedded decoder does with these blocks idle."""
    original, cut = embedded(), AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer.encode(TEXT)])
    assert ids.tolist() == [AutoTokenizer.from_pretrained(EMBEDDED_MODEL).encode(TEXT)]
    assert len(cut.model.layers) == cut.config.num_hidden_layers == 10 - len(gone)
    with doing_nothing(original, gone):
        torch.testing.assert_close(logits(cut, ids), logits(original, ids))


def best(scored, by, sign):
    blocks = json.loads((scored / "report.json").read_text())["blocks"]
    return {block["index"]: block[by] for block in sorted(blocks, key=lambda block: sign * block[by])}


@pytest.mark.slow
def test_a_number_takes_the_first_of_the_ranking(run, scored, tmp_path):
    out = tmp_path / "not" / "there" / "cut"
    code, printed, _ = run("prune", "embedded", "--moments", scored, "--drop", 3, *BY, "--out", out)
    ranking = best(scored, "linearity_heldout", -1)
    gone = list(ranking)[:3]
    assert code == 0
    assert all(f"block {index} ({ranking[index]:.4f})" in printed for index in gone)
    assert "7 of 10 blocks" in printed
    assert f"next     linscore evaluate embedded {out}" in printed
    check_is_embedded_without(out, gone)
    record = json.loads((out / "linscore.json").read_text())
    assert record["operation"] == "drop"
    assert record["model"] == "embedded"
    report = json.loads((scored / "report.json").read_text())
    assert record["choice"] == {
        "scored": {"model": "embedded", "text": report["text"], "tokens": 4000},
        "blocks": gone,
        "by": "linearity_heldout",
        "figures": {str(index): ranking[index] for index in gone},
        "sequential": False,
        "whole": None,
    }
    assert (record["depth_before"], record["depth"]) == (10, 7)
    assert record["parameters"] == sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(out).parameters())
    assert {"linscore", "torch", "transformers"} <= set(record["versions"])


@pytest.mark.slow
def test_block_influence_ranks_where_nobody_says(run, scored, tmp_path):
    out = tmp_path / "cut"
    code, printed, _ = run("prune", "embedded", "--moments", scored, "--drop", 1, "--out", out)
    assert code == 0
    check_is_embedded_without(out, list(best(scored, "block_influence", 1))[:1])
    assert "chosen   by block_influence" in printed
    assert "expects  a cost that is not known: block_influence measures none" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocks", "gone", "runs"),
    [("2,5-7", [2, 5, 6, 7], ["2", "5-7"]), ("5,", [5], ["5"]), ("0-1", [0, 1], ["0-1"]), ("4,3", [3, 4], ["3-4"])],
)
def test_a_list_names_the_blocks_and_needs_no_moments(run, tmp_path, blocks, gone, runs):
    out = tmp_path / "cut"
    code, printed, _ = run("prune", "embedded", "--drop", blocks, "--out", out)
    assert code == 0
    assert [line.split("block")[1].strip("s ") for line in printed.splitlines() if "dropped" in line] == runs
    check_is_embedded_without(out, gone)
    record = json.loads((out / "linscore.json").read_text())
    assert record["choice"] is None
    assert [one["span"] for one in record["replacements"]] == runs


def test_nothing_but_the_checkpoint_is_left_behind(run, tmp_path):
    out = tmp_path / "cut"
    assert run("prune", "embedded", "--drop", "5,", "--out", out)[0] == 0
    assert list(tmp_path.iterdir()) == [out]
    assert {"config.json", "model.safetensors", "tokenizer.json", "linscore.json"} <= {p.name for p in out.iterdir()}
    assert not list(out.glob("*.bin"))


@pytest.mark.slow
def test_dtype_is_that_of_the_checkpoint_or_as_asked(run, tmp_path):
    for name, options in (("stored", ()), ("asked", ("--dtype", "float32"))):
        assert run("prune", "embedded", "--drop", "5,", "--out", tmp_path / name, *options)[0] == 0
    dtypes = [AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype="auto").dtype for name in ("stored", "asked")]
    assert dtypes == [AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL, dtype="auto").dtype, torch.float32]


@pytest.mark.slow
def test_float16_stays_float16_though_a_cpu_computes_in_float32(run, tmp_path):
    model = tmp_path / "half"
    embedded().half().save_pretrained(model)
    AutoTokenizer.from_pretrained(EMBEDDED_MODEL).save_pretrained(model)
    assert run("prune", model, "--drop", "5,", "--device", "cpu", "--out", tmp_path / "cut")[0] == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "cut", dtype="auto").dtype == torch.float16
    record = json.loads((tmp_path / "cut" / "linscore.json").read_text())
    assert record["kv_bytes_per_token_before"] * 9 == record["kv_bytes_per_token"] * 10  # both in the same dtype


def test_a_folder_that_exists_is_left_alone_before_any_work(run, tmp_path, monkeypatch):
    monkeypatch.setattr("linscore.jobs.cut.load_pretrained", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "mine").write_text("mine")
    refused(run("prune", "embedded", "--drop", "5,", "--out", tmp_path / "cut"), "exists", "give another", "out")
    assert (tmp_path / "cut" / "mine").read_text() == "mine"
    assert [p.name for p in (tmp_path / "cut").iterdir()] == ["mine"]


@pytest.mark.slow
def test_an_interrupted_save_leaves_nothing(run, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", full)
    refused(run("prune", "embedded", "--drop", "5,", "--out", tmp_path / "new" / "cut"), "No space")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--drop", "3"], ["--moments", "--drop 3,"]),
        (["--drop", "0-9"], ["all 10 blocks"]),
        (["--drop", "2,12"], ["no blocks [12]"]),
        (["--drop", "2,2"], ["more than once"]),
        (["--drop", "7-5"], ["no number and no list"]),
        (["--drop=-3"], ["no number and no list"]),
        (["--drop", "three"], ["no number and no list"]),
        (["--drop", "2,", "--by", "cosine"], ["--by"]),
        (["--drop", "2,", "--device", "nowhere"], ["nowhere"]),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(run, tmp_path, arguments, words):
    refused(run("prune", "embedded", *arguments, "--out", tmp_path / "cut"), *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--drop", "0"], ["0 blocks"]),
        (["--drop", "10"], ["all 10 blocks"]),
        (["--drop", "11"], ["11 blocks", "10 were scored"]),
        (["--drop", "2", "--sequential"], ["--sequential", "--text"]),
        (["--drop", "2", "--by", "perplexity"], ["--by perplexity", "--text"]),
        (["--drop", "2", "--by", "beauty"], ["beauty", "linearity_heldout"]),
        (["--drop", "2,3"], ["--moments"]),
        (["--drop", "3", "--span", "2"], ["spans of 2", "--for spans"]),
    ],
)
def test_bad_choices_from_a_ranking_are_one_line_and_write_nothing(run, scored, tmp_path, arguments, words):
    refused(run("prune", "embedded", "--moments", scored, *arguments, "--out", tmp_path / "cut"), *words)
    assert not list(tmp_path.iterdir())


def test_moments_of_another_model_are_refused(run, scored, tmp_path):
    model = tmp_path / "tiny"
    tiny("llama").save_pretrained(model)
    AutoTokenizer.from_pretrained(EMBEDDED_MODEL).save_pretrained(model)
    arguments = ["prune", model, "--moments", scored, "--drop", 1, "--out", tmp_path / "cut"]
    refused(run(*arguments), "10 blocks", "3, width 32", "score")
    assert not (tmp_path / "cut").exists()


def test_moments_that_are_not_there_are_refused(run, tmp_path):
    refused(run("prune", "embedded", "--moments", tmp_path, "--drop", 1, "--out", tmp_path / "cut"), "linscore score")


def test_help_says_how_a_number_differs_from_a_list(run):
    code, printed, _ = run("prune", "--help")
    assert code == 0
    assert "5, for block 5 alone" in " ".join(printed.split())


def test_what_would_not_load_again_is_not_kept(run, models, tmp_path, monkeypatch):
    """As a model whose tensors are written under names that nobody reads."""

    def renamed(self, folder, *args, **kwargs):
        names = {f"other.{name}": tensor for name, tensor in self.state_dict().items()}
        PreTrainedModel.save_pretrained(self, folder, *args, state_dict=names, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", renamed)
    code, _, error = run("prune", models / "original", "--drop", "1,", "--out", tmp_path / "out")
    assert (code, error.count("\n")) == (2, 1)
    assert "would not load as the model that it is" in error
    assert list(tmp_path.iterdir()) == []
