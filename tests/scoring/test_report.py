import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import tiny

import linscore
from linscore import Report, load_moments, rank
from linscore.terminal import bar, ranges

PROMISED = [
    "index",
    "linearity",
    "linearity_heldout",
    "linearity_no_residual",
    "linearity_no_residual_heldout",
    "cosine",
    "block_influence",
    "angular_distance",
    "delta_ratio",
    "procrustes",
    "cka",
    "anisotropy",
    "effective_rank",
]


def test_the_json_has_the_promised_keys_in_order(report):
    data = json.loads(report.to_json())
    assert {"model", "tokens", "backend", "precision", "folds", "warnings", "blocks"} <= set(data)
    assert data["model"] == "tiny"
    assert data["tokens"] == 24 * 32
    assert data["backend"] == "eager"
    assert next(iter(data["blocks"][0])) == "index"
    for block in data["blocks"]:
        assert set(PROMISED) <= set(block)
        assert all(isinstance(block[key], int | float) for key in PROMISED)


def test_a_saved_report_loads_equal_and_its_moments_give_the_same_scores(report, tmp_path):
    report_path, moments_path = report.save(tmp_path / "out")
    assert Report.load(tmp_path / "out") == report
    assert Report.load(report_path) == report
    moments, facts = load_moments(moments_path)
    assert facts["model"] == "tiny"
    again = linscore.block_metrics(moments["block.1"], after=moments["block.2"])
    assert again.linearity == report.blocks[1].linearity
    assert again.cka == report.blocks[1].cka


def test_saved_moments_can_be_extended(report, tmp_path):
    _, path = report.save(tmp_path)
    moments, _ = load_moments(path)
    x = torch.randn(50, 32)
    before = moments["block.0"].rows(0)
    moments["block.0"].update(x, x + 1, fold=0)
    assert moments["block.0"].rows(0) == before + 50


@pytest.mark.parametrize("damage", ["cut", "text", "other", "nan"])
def test_a_damaged_moments_file_is_refused(report, tmp_path, damage):
    from safetensors import safe_open
    from safetensors.torch import save_file

    _, path = report.save(tmp_path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "text":
        path.write_text("not a safetensors file")
    elif damage == "other":
        save_file({"a": torch.zeros(2)}, path)
    else:
        with safe_open(path, "pt") as file:
            metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        tensors["block.0.light.0.second"][0, 0] = float("nan")
        save_file(tensors, path, metadata)
    with pytest.raises(linscore.LinscoreError, match="damaged"):
        load_moments(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(depth="3"), "depth is '3', not a whole number"),
        (lambda data: data["blocks"][1].update(cosine=None), r"blocks\[1\].cosine is None, not a number"),
        (lambda data: data["blocks"][0].update(later=1), r"blocks\[0\].later is unknown to this linscore: a newer"),
        (lambda data: data.update(moments={}), "moments is unknown"),
        (lambda data: data.update(versions={"torch": [2]}), r"versions.torch is \[2\], not a word"),
    ],
)
def test_a_damaged_report_says_where(report, tmp_path, change, message):
    data = json.loads(report.to_json())
    change(data)
    (tmp_path / "report.json").write_text(json.dumps(data))
    with pytest.raises(linscore.LinscoreError, match=rf"no linscore report: score the model again \({message}"):
        Report.load(tmp_path)


def test_a_report_with_sub_blocks_and_spans_is_read_again(tmp_path):
    """Also without what has a default, as an older version would have left it out."""
    ids = torch.randint(3, 60, (8, 32), generator=torch.Generator().manual_seed(0))
    found = linscore.score(tiny("llama"), [ids], folds=1, sub_blocks=True, spans=[linscore.Span(0, 1)])
    found.save(tmp_path)
    assert Report.load(tmp_path) == found
    data = json.loads(found.to_json())
    for block in data["blocks"]:
        del block["sub_blocks"]
    (tmp_path / "report.json").write_text(json.dumps(data))
    assert [block.sub_blocks for block in Report.load(tmp_path).blocks] == [None] * found.depth


@pytest.mark.parametrize("damage", ["newer", "type", "pilot"])
def test_a_damaged_head_of_moments_says_where(report, tmp_path, damage):
    from safetensors import safe_open
    from safetensors.torch import save_file

    _, path = report.save(tmp_path)
    with safe_open(path, "pt") as file:
        head, tensors = json.loads(file.metadata()["linscore"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    one = head["moments"]["block.1"]
    one |= {"newer": {"later": 1}, "type": {"folds": "2"}, "pilot": {"limits": [1.0]}}[damage]
    save_file(tensors, path, {"linscore": json.dumps(head)})
    with pytest.raises(linscore.LinscoreError, match=r"damaged .*moments\.block\.1\.(later|folds|limits)"):
        load_moments(path)


def test_rank_puts_the_block_that_does_least_first(report):
    influence = [block.block_influence for block in rank(report, by="block_influence")]
    assert influence == sorted(influence)
    linearity = [block.linearity for block in rank(report, by="linearity")]
    assert linearity == sorted(linearity, reverse=True)


@pytest.mark.parametrize("by", ["nothing", "index", "sub_blocks", "without_heavy"])
def test_rank_refuses_what_is_no_figure(report, by):
    with pytest.raises(linscore.LinscoreError, match="choose one of block_influence"):
        rank(report, by=by)


def test_rank_says_so_when_no_block_has_the_figure():
    model = tiny("llama")
    report = linscore.score(model, [torch.randint(3, 60, (8, 32))], folds=1)
    with pytest.raises(linscore.LinscoreError, match="held out"):
        rank(report, by="linearity_heldout")


def kinds(report: Report) -> set[str]:
    return {warning.kind for warning in report.warnings}


def test_doubts_are_data_in_the_report():
    model = tiny("llama")
    few = torch.randint(3, model.config.vocab_size, (4, 8), generator=torch.Generator().manual_seed(0))
    found = linscore.score(model, [few], folds=1)
    assert {"few_tokens", "single_fold", "rank_deficient"} <= kinds(found)
    assert all(warning.message and "\n" not in warning.message for warning in found.warnings)
    many = torch.randint(3, model.config.vocab_size, (40, 32), generator=torch.Generator().manual_seed(0))
    assert kinds(linscore.score(model, [many])) <= {"text_does_not_fit"}  # nobody has trained it


def test_rounding_of_a_16_bit_stream_is_warned_about_where_a_block_adds_little():
    model = tiny("llama")
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.mul_(3e-3)
            block.mlp.down_proj.weight.mul_(3e-3)
    many = torch.randint(3, model.config.vocab_size, (40, 32), generator=torch.Generator().manual_seed(0))
    assert "rounding" in kinds(linscore.score(model.to(torch.bfloat16), [many]))


def test_bars_grow_by_eighths_and_stay_inside():
    assert bar(0.0) == " " * 16
    assert bar(1.0) == "█" * 16 == bar(7.0)
    assert bar(0.5) == "█" * 8 + " " * 8
    assert bar(-1.0) == " " * 16
    assert bar(None) == ""


def test_ranges_of_blocks_are_written_short():
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"


def test_cross_attention_that_nothing_reaches_is_a_warning():
    sizes = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
    bart = transformers.BartForCausalLM(transformers.BartConfig(vocab_size=64, max_position_embeddings=64, **sizes))
    batch = torch.randint(3, 60, (8, 40))
    found = {one.kind: one.message for one in linscore.score(bart.eval(), [batch]).warnings}
    assert "encoder_attn of the blocks" in found["cross_attention"]
    assert "cross_attention" not in {one.kind for one in linscore.score(tiny("llama"), [batch]).warnings}


def test_every_key_of_the_report_is_in_the_docs(report):
    docs = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
    data = json.loads(report.to_json())
    figures = {re.sub(r"_heldout(_spread)?$", "", key) for key in data["blocks"][0]} - {"index", "sub_blocks"}
    assert [key for key in [*data, "run", "moments_digest", *sorted(figures)] if f"`{key}`" not in docs] == []


def test_blocks_are_solved_where_the_faster_device_is(report, monkeypatch):
    """Each block's moments go there: without memory behind it, nothing can be solved."""
    model = tiny("llama")
    ids = torch.randint(3, model.config.vocab_size, (24, 32), generator=torch.Generator().manual_seed(0))
    asked = []
    monkeypatch.setattr("linscore.scoring.score.where_to_solve", lambda device: asked.append(device) or device)
    again = linscore.score(model, ids.split(8), name="tiny")
    assert [block.linearity for block in again.blocks] == [block.linearity for block in report.blocks]
    assert len(asked) > len(again.blocks)
    monkeypatch.setattr("linscore.scoring.score.where_to_solve", lambda _: torch.device("meta"))
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        linscore.score(model, ids.split(8), name="tiny")
