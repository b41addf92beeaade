"""prune and linearize on attention and MLP of single blocks, and what goes on with such a folder."""

import json

import pytest
import torch
from asked import asked
from linear_models import logits, tokens
from part_hooks import overwritten

import linscore
from linscore import LinscoreError
from linscore.jobs.distil import run_distil
from linscore.jobs.evaluate import run_evaluate
from linscore.jobs.fuse import run_fuse
from linscore.jobs.linearize import run_linearize
from linscore.jobs.prune import run_prune
from linscore.jobs.score import run_score
from linscore.models.load import load

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pruned(models, tmp_path_factory):
    out = tmp_path_factory.mktemp("parts") / "pruned"
    return asked(run_prune)(str(models / "original"), out=str(out), blocks="0.attention,1,2.mlp", device="cpu")


@pytest.fixture(scope="module")
def linear(models, tmp_path_factory):
    out = tmp_path_factory.mktemp("parts") / "linear"
    text = {"text": str(models / "text.txt"), "tokens": 400, "seq_len": 40}
    return asked(run_linearize)(
        str(models / "original"), out=str(out), blocks="1.attention,2.mlp", rank=4, device="cpu", **text
    )


def test_what_is_pruned_is_the_model_without_the_parts(pruned, models):
    original = load(models / "original", device="cpu")
    whole = linscore.drop(original, [1])
    with overwritten(whole, "llama", {"0.attention": None, "1.mlp": None}):
        expected = logits(whole, tokens())
    torch.testing.assert_close(logits(load(pruned.out, device="cpu"), tokens()), expected, rtol=1e-5, atol=1e-5)


def test_the_record_says_which_parts_went_and_what_is_saved(pruned):
    record = json.loads((pruned.out / "linscore.json").read_text())
    told = [(one["span"], one["form"], one["block"]) for one in record["replacements"]]
    assert told == [("0.attention", "dropped", 0), ("1", "dropped", 0), ("2.mlp", "dropped", 1)]
    # 3 attentions, 2 heads, 8 features, key and value, float32; 1 is left
    assert (record["kv_bytes_per_token_before"], record["kv_bytes_per_token"]) == (3 * 2 * 8 * 2 * 4, 2 * 8 * 2 * 4)
    assert record["same_cut"] is None
    assert record["parameters"] == sum(p.numel() for p in load(pruned.out, device="cpu").parameters())
    assert "128 of 384 bytes a token in its cache" in pruned.record.summary()
    assert "dropped  block 0.attention" in pruned.record.summary()


def test_maps_of_parts_are_those_of_the_sub_blocks_moments(linear, models):
    original = load(models / "original", device="cpu")
    batches = list(_batches(models))
    moments = linscore.score(original, batches, sub_blocks=True, spectra=False).moments
    fits = {
        key: linscore.fit_block_map(moments[f"block.{key}"], rank=4, ridge="auto") for key in ("1.attention", "2.mlp")
    }
    with overwritten(original, "llama", fits):
        expected = logits(original, tokens())
    torch.testing.assert_close(logits(load(linear.out, device="cpu"), tokens()), expected, rtol=1e-3, atol=1e-3)
    record = json.loads((linear.out / "linscore.json").read_text())
    assert record["replacements"][1]["parameters"] == [
        f"model.layers.2.mlp.fitted.{name}" for name in ("down", "up", "bias")
    ]
    assert record["replacements"][1]["fit"]["error"] == pytest.approx(fits["2.mlp"].error, rel=1e-4)


def _batches(models):
    from linscore.jobs.passes import Passes
    from linscore.models.load import load_pretrained
    from linscore.options.text import TextOptions
    from linscore.text.source import Text

    text = TextOptions(text=str(models / "text.txt"), tokens=400, seq_len=40)
    return Passes(load_pretrained(str(models / "original"), device="cpu"), Text(text))()


@pytest.mark.slow
def test_moments_of_a_score_serve_and_where_they_are_missing_the_command_is_said(models, tmp_path):
    text = {"text": str(models / "text.txt"), "tokens": 400, "seq_len": 40, "device": "cpu"}
    asked(run_score)(str(models / "original"), out=str(tmp_path / "s"), sub_blocks=True, **text)
    cut = {"blocks": "1.mlp,", "moments": str(tmp_path / "s"), "device": "cpu"}
    asked(run_linearize)(str(models / "original"), out=str(tmp_path / "l"), **cut)
    asked(run_score)(str(models / "original"), out=str(tmp_path / "w"), **text)
    cut["moments"] = str(tmp_path / "w")
    with pytest.raises(LinscoreError, match=r"no moments to fit a map for block 1\.mlp.*linscore score --sub-blocks"):
        asked(run_linearize)(str(models / "original"), out=str(tmp_path / "n"), **cut)


@pytest.mark.slow
def test_such_folders_are_scored_evaluated_and_distilled(pruned, linear, models, tmp_path):
    text = {"text": str(models / "text.txt"), "tokens": 400, "device": "cpu"}
    report = asked(run_score)(str(linear.out), out=str(tmp_path / "s"), seq_len=40, **text)
    assert report is not None
    asked(run_evaluate)([str(models / "original"), str(pruned.out), str(linear.out)], **text)
    asked(run_distil)(str(linear.out), out=str(tmp_path / "d"), steps=2, seq_len=40, **text)
    assert logits(load(tmp_path / "d", device="cpu"), tokens()).isfinite().all()


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ("1.mlp,1", "names a block more than once"),
        ("1.mlp,1.mlp", "names a block more than once"),
        ("1.norm,", "is no number and no list: write 3, or 2,5-7, or 5,, or 3.mlp,5"),
        ("0-1.mlp", "is no number and no list"),
        ("7.mlp", "has no blocks"),
    ],
)
def test_what_names_no_part_is_one_line_and_writes_nothing(blocks, says, models, tmp_path):
    with pytest.raises(LinscoreError, match=says) as caught:
        asked(run_prune)(str(models / "original"), out=str(tmp_path / "cut"), blocks=blocks, device="cpu")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_parts_cannot_be_fused(models, tmp_path):
    with pytest.raises(LinscoreError, match="a part of a block, which only prune and linearize take"):
        asked(run_fuse)(str(models / "original"), out=str(tmp_path / "cut"), blocks="1.mlp", device="cpu")
