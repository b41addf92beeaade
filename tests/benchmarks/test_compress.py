"""The rows of a study that may be killed, and the tables made of them."""

import json

import pytest
import torch
from transformers import AutoTokenizer

import linscore
from benchmarks.studies import compress_speed, compress_tasks, trained
from benchmarks.studies.compress import markdown
from benchmarks.studies.compress_rows import Rows
from linscore.compression.choices import Form
from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.evaluation.result import Evaluation
from linscore.pretraining.recipe import Recipe
from linscore.spans import Unit

ABOUT = {"model": "small", "steps": 3}


def rows(tmp_path, about=ABOUT, **more):
    return Rows(tmp_path / "new" / "small.json", about, markdown, **more)


def test_every_row_is_in_the_file_as_soon_as_it_is_known_and_is_not_asked_for_again(tmp_path):
    first = rows(tmp_path)
    first.add({"row": "dropped", "share": 0.9, "gone": 0.1, "added": 0.25})
    content = json.loads(first.path.read_text())
    assert [row["added"] for row in content["rows"]] == [0.25]
    assert "| dropped | +0.2500 (10.0%) | – | – |" in first.table.read_text()
    later = rows(tmp_path)
    assert later.has("dropped", 0.9)
    assert not later.has("dropped", 0.8)
    later.add({"row": "dropped", "share": 0.8, "reason": "cannot go"})
    assert "| dropped | +0.2500 (10.0%) | not possible | – |" in later.table.read_text()


def test_rows_of_other_settings_do_not_stand_in_one_table(tmp_path):
    rows(tmp_path).add({"row": "dropped", "share": 0.9, "reason": "cannot go"})
    with pytest.raises(SystemExit, match="remove it"):
        rows(tmp_path, ABOUT | {"steps": 4})


def test_only_the_rows_that_begin_with_a_word_are_measured_anew(tmp_path):
    before = rows(tmp_path)
    for row in ("compress", "compress, healed", "fused"):
        before.add({"row": row, "share": 0.9, "reason": "none"})
    after = rows(tmp_path, afresh="compress")
    assert [after.has(row, 0.9) for row in ("compress", "compress, healed", "fused")] == [False, False, True]


def test_a_model_that_others_published_on_gets_its_figure_and_others_stay_unmeasured():
    found = {
        "uncut": Evaluation(model="a", form="original", parameters=1, weights_mib=1.0, average=0.5),
        "0.8 stays": Evaluation(model="b", form="dropped", parameters=1, weights_mib=1.0, average=0.45, retained=90.0),
    }
    lines = compress_tasks.table({"model": "Llama-2-7B-hf"}, found, {"date": "d", "commit": "c"}).splitlines()
    ours = {tuple(line.split(" | ")[:2]): line.split(" | ")[-1] for line in lines if "LinearPatch" in line}
    assert ours[("| Llama-2-7B", "7 of 32 blocks")] == "0.8 stays: 90.00 |"
    assert ours[("| Llama-3-8B", "5 of 32 blocks")] == "not measured |"


def test_the_large_decoder_is_cut_by_the_same_choice_with_ranks_in_proportion(monkeypatch):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 4}
    monkeypatch.setattr(compress_speed, "LARGE", {**sizes, "vocab_size": 50})
    choice = {Unit.parse("1.mlp"): Form("rank", 2), Unit.parse("0"): Form("drop")}
    uncut, cut = (linscore.find_decoder(model) for _, model in compress_speed.large({"cut": choice}, width=16, depth=3))
    norm, mlp, attention = 32, 3 * 32 * 48, 4 * 32 * 32
    assert sum(p.numel() for p in uncut.blocks.parameters()) == 3 * (2 * norm + mlp + attention)
    factors, bias = 2 * 32 * 4, 32  # of a map of twice the rank, as the width is twice as large
    left = attention + norm + factors + bias + (2 * norm + mlp + attention)
    assert sum(p.numel() for p in cut.blocks.parameters()) == left


def test_what_was_trained_with_scaled_norms_is_a_plain_checkpoint_that_computes_the_same(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    recipe, ids = Recipe(model=sizes, steps=1, learning_rate=1e-3), torch.arange(3, 12)[None]
    with trained.scaling():
        model = trained.job.new_model(recipe, tokenizer).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    folder = trained.folded(tmp_path / "model")
    plain = linscore.load(str(folder), device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, model(ids).logits)
    blocks = linscore.find_decoder(plain).blocks
    for number, gain in ((1, 1.0), (2, 0.70711), (3, 0.57735)):  # 1/√l
        assert blocks[number - 1].input_layernorm.weight.tolist() == pytest.approx([gain] * 16, abs=1e-5)
        assert blocks[number - 1].post_attention_layernorm.weight.tolist() == pytest.approx([gain] * 16, abs=1e-5)
