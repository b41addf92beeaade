"""`linscore linearize` and `fuse` on the decoder that ships with linscore, and every way in which they refuse."""

import json

import pytest
import torch
from asked import asked
from commands import TEXT, embedded, refused
from tiny_models import tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

import linscore
from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.models.load import load_pretrained


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A report of four blocks of the embedded decoder, with everything that maps are fitted from."""
    from linscore.jobs.score import run_score

    folder = tmp_path_factory.mktemp("scores") / "embedded"
    asked(run_score)(tokens=3000, seq_len=100, device="cpu", blocks="2-5", collect_for="fuse,spans", out=str(folder))
    return folder


@torch.no_grad()
def outputs(model, block):
    """What leaves a block, on a few tokens."""
    seen = []
    hook = model.model.layers[block].register_forward_hook(lambda _b, _a, out: seen.append(out))
    model(ids())
    hook.remove()
    return seen[0]


def ids():
    return torch.tensor([AutoTokenizer.from_pretrained(EMBEDDED_MODEL).encode(TEXT)])


def record_of(folder):
    return json.loads((folder / "linscore.json").read_text())


@pytest.mark.slow
def test_linear_blocks_are_those_of_the_moments(run, scored, tmp_path):
    code, printed, _ = run("linearize", "embedded", "--moments", scored, "--replace", "3,4-5", "--out", tmp_path / "l")
    assert code == 0
    moments, _ = linscore.load_moments(scored / "moments.safetensors")
    fits = {key: linscore.fit_block_map(moments[name], ridge="auto") for key, name in ((3, "block.3"), (4, "span.4-5"))}
    model = linscore.load(tmp_path / "l")
    for block, fitted in fits.items():
        x = outputs(model, block - 1)
        torch.testing.assert_close(outputs(model, block).double(), fitted(x), rtol=1e-3, atol=1e-3)  # float16 weights
    assert "9 of 10 blocks" in printed
    record = record_of(tmp_path / "l")
    assert [(one["span"], one["form"], one["block"]) for one in record["replacements"]] == [
        ("3", "linear", 3),
        ("4-5", "linear", 4),
    ]
    assert record["replacements"][0]["fit"]["error_heldout"] == pytest.approx(fits[3].error_heldout)
    assert set(record["replacements"][1]["parameters"]) == {"model.layers.4.weight", "model.layers.4.bias"}
    assert record["moments"]["tokens"] == 3000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "names"),
    [(["--rank", 8], {"down", "up", "bias"}), (["--diagonal"], {"scale", "bias"}), (["--mean"], {"bias"})],
)
def test_small_maps_are_stored_small(run, scored, tmp_path, options, names):
    out = tmp_path / "l"
    assert run("linearize", "embedded", "--moments", scored, "--replace", "3,", *options, "--out", out)[0] == 0
    assert {name.split(".")[-1] for name, _ in linscore.load(out).model.layers[3].named_parameters()} == names


@pytest.mark.slow
def test_a_fused_checkpoint_is_plain_and_changes_the_mlp_before_the_span(run, scored, tmp_path):
    out = tmp_path / "f"
    code, printed, _ = run("fuse", "embedded", "--moments", scored, "--drop", "3,4", "--out", out)
    assert code == 0
    assert "blocks 3-4, on the intermediate" in printed
    cut, original = AutoModelForCausalLM.from_pretrained(out).eval(), embedded()
    assert type(cut) is type(original)
    changed = [
        name
        for name, tensor in cut.state_dict().items()
        if "layers" in name and not torch.equal(tensor, original.state_dict()[_before(name, gone=(3, 4))])
    ]
    assert changed == ["model.layers.2.mlp.down_proj.weight"]
    (one,) = record_of(out)["replacements"]
    assert (one["span"], one["form"], one["block"], one["parameters"]) == ("3-4", "fused", 2, changed)
    assert one["fit"]["on"] == "intermediate"


def _before(name, gone):
    index = int(name.split(".")[2])
    return name.replace(f"layers.{index}.", f"layers.{[i for i in range(10) if i not in gone][index]}.")


@pytest.mark.slow
def test_fewer_blocks_by_a_map_are_better_than_by_nothing(run, scored, tmp_path):
    for name, command in (("dropped", ["prune", "--drop"]), ("fused", ["fuse", "--moments", scored, "--drop"])):
        assert run(command[0], "embedded", *command[1:], "3,4", "--out", tmp_path / name)[0] == 0
    assert run("linearize", "embedded", "--moments", scored, "--replace", "3-4", "--out", tmp_path / "linear")[0] == 0
    expected = outputs(embedded(), 4)
    found = {
        "dropped": outputs(linscore.load(tmp_path / "dropped"), 2),
        "fused": outputs(linscore.load(tmp_path / "fused"), 2),
        "linear": outputs(linscore.load(tmp_path / "linear"), 3),
    }
    errors = {name: float((states - expected).norm()) for name, states in found.items()}
    assert errors["fused"] < errors["dropped"]
    assert errors["linear"] < errors["dropped"]


@pytest.mark.slow
def test_auto_puts_a_linear_block_where_nothing_can_be_fused_and_says_why(run, tmp_path):
    text = tmp_path / "text.py"
    text.write_text(TEXT * 100)
    code, printed, said = run("fuse", "embedded", "--drop", "0,2", "--auto", "--text", text, "--out", tmp_path / "f")
    assert code == 0
    assert "a pass over" in said
    assert "block 0 has no MLP before it" in printed
    forms = [(one["span"], one["form"], one["block"]) for one in record_of(tmp_path / "f")["replacements"]]
    assert forms == [("0", "linear", 0), ("2", "fused", 1)]
    model = linscore.load(tmp_path / "f")
    assert len(model.model.layers) == 9
    with torch.no_grad():
        assert model(ids()).logits.isfinite().all()


@pytest.mark.slow
def test_a_number_measures_on_a_text_where_there_are_no_moments(run, tmp_path):
    text = tmp_path / "text.py"
    text.write_text(TEXT * 100)
    options = ["--drop", 2, "--by", "perplexity", "--sequential", "--text", text, "--tokens", 256, "--seq-len", 128]
    code, printed, _ = run("prune", "embedded", *options, "--out", tmp_path / "d")
    assert code == 0
    assert "by perplexity, measured again after each" in printed
    choice = record_of(tmp_path / "d")["choice"]
    assert choice["sequential"]
    assert len(choice["blocks"]) == 2
    assert list(choice["figures"]) == [str(index) for index in choice["blocks"]]


@pytest.mark.slow
def test_rank_by_perplexity_leaves_one_block_out_after_the_other(run, scored, tmp_path):
    text = tmp_path / "text.py"
    text.write_text(TEXT * 100)
    code, printed, _ = run("rank", scored, "--by", "perplexity", "--text", text, "--tokens", 1024, "--json")
    assert code == 0
    assert sorted(json.loads(printed)) == list(range(10))
    code, printed, _ = run("rank", scored, "--span", 2, "--by", "block_influence", "--json")
    assert sorted(json.loads(printed)) == ["2-3", "3-4", "4-5"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["linearize", "--replace", "6,"], ["no moments", "linscore score"]),
        (["linearize", "--replace", "2-4"], ["--for spans --span-lengths 3", "--text"]),
        (["linearize", "--replace", "3,", "--rank", "161"], ["--rank is 161", "160"]),
        (["linearize", "--replace", "3,", "--rank", "4", "--diagonal"], ["diagonal"]),
        (["linearize", "--replace", "3,", "--mean", "--diagonal"], ["--diagonal and --mean are both given"]),
        (["linearize", "--replace", "3,", "--ridge", "much"], ["--ridge", "much"]),
        (["linearize", "--replace", "3,3-4"], ["more than once"]),
        (["fuse", "--drop", "2-4"], ["--for fuse,spans --span-lengths 3", "--text"]),
        (["fuse", "--drop", "0,"], ["block 0", "--auto"]),
        (["fuse", "--drop", "0-9"], ["block 0"]),
        (["fuse", "--drop", "3,", "--on", "top"], ["top"]),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(run, scored, tmp_path, arguments, words):
    command, *options = arguments
    refused(run(command, "embedded", "--moments", scored, *options, "--out", tmp_path / "cut"), *words)
    assert not list(tmp_path.iterdir())


def test_moments_of_other_weights_are_refused(run, scored, tmp_path):
    model = load_pretrained("embedded")
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.add_(0.1 * parameter.std() * torch.randn_like(parameter))
    model.model.save_pretrained(tmp_path / "other")
    model.tokenizer.save_pretrained(tmp_path / "other")
    arguments = ["linearize", tmp_path / "other", "--moments", scored, "--replace", "3,", "--out", tmp_path / "cut"]
    refused(run(*arguments), "other weights", "score it first")
    assert not (tmp_path / "cut").exists()


def test_a_family_that_cannot_be_fused_is_refused(run, tmp_path):
    tiny("gemma2").save_pretrained(tmp_path / "gemma")
    AutoTokenizer.from_pretrained(EMBEDDED_MODEL).save_pretrained(tmp_path / "gemma")
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    refused(
        run("fuse", tmp_path / "gemma", "--drop", "1,", "--text", text, "--out", tmp_path / "cut"), "norm", "--auto"
    )
    assert not (tmp_path / "cut").exists()
