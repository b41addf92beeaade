import io
import json
import sys

import pytest
import torch
from tiny_models import tiny
from transformers import BertConfig, BertLMHeadModel
from words import tokenizer, words

from linscore.errors import Interrupted
from linscore.machine import bench


def test_score_prints_a_table_the_paths_and_what_to_try_next(run, model_folder, text, tmp_path):
    out = tmp_path / "out"
    code, printed, _ = run("score", model_folder, "--text", text, "--seq-len", "16", "--out", str(out))
    assert code == 0
    for expected in ("held-out", "█", str(out / "report.json"), str(out / "moments.safetensors"), "linscore rank"):
        assert expected in printed
    report = json.loads((out / "report.json").read_text())
    assert report["tokens"] == 2000
    assert [block["index"] for block in report["blocks"]] == [0, 1, 2]


def test_score_as_json_prints_the_report_and_nothing_else(run, model_folder, text, tmp_path):
    out = tmp_path / "out"
    code, printed, _ = run("score", model_folder, "--text", text, "--seq-len", "16", "--out", str(out), "--json")
    assert code == 0
    assert json.loads(printed) == json.loads((out / "report.json").read_text())


def test_options_reach_the_report(run, model_folder, text, tmp_path):
    options = "--seq-len 16 --tokens 800 --batch-size 3 --folds 3 --skip-first 2 --precision exact --blocks 0-1 --json"
    extra = ("--dtype", "bfloat16", "--device", "cpu", "--sub-blocks", "--out", str(tmp_path / "o"))
    code, printed, _ = run("score", model_folder, "--text", text, *options.split(), *extra)
    report = json.loads(printed)
    assert code == 0
    assert report["tokens"] == 800 // 16 * 14
    assert (report["folds"], report["precision"], report["dtype"]) == (3, "exact", "bfloat16")
    assert [block["index"] for block in report["blocks"]] == [0, 1]
    assert set(report["blocks"][0]["sub_blocks"]) == {"attention", "mlp"}


def test_sub_blocks_have_rows_of_their_own(run, model_folder, text, tmp_path):
    options = ("--seq-len", "16", "--sub-blocks", "--out", str(tmp_path / "o"))
    _, printed, _ = run("score", model_folder, "--text", text, *options)
    assert printed.count("attention") == printed.count("mlp") == 3


def test_standard_input_and_jsonl_are_texts_too(run, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(words(500).encode())))
    assert run("score", model_folder, "--text", "-", "--seq-len", "16", "--out", str(tmp_path / "a"))[0] == 0
    lines = tmp_path / "texts.jsonl"
    lines.write_text("".join(json.dumps({"text": words(60, seed)}) + "\n" for seed in range(10)))
    assert run("score", model_folder, "--text", str(lines), "--seq-len", "16", "--out", str(tmp_path / "b"))[0] == 0


def test_a_local_dataset_is_streamed(run, model_folder, tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": words(60, seed)}) + "\n" for seed in range(10)))
    code, printed, error = run(
        "score", model_folder, "--dataset", str(folder), "--seq-len", "16", "--out", str(tmp_path / "o"), "--json"
    )
    assert code == 0, error
    assert json.loads(printed)["tokens"] > 500


def test_a_broken_shard_ends_a_score_unless_it_may_be_left_out(run, model_folder, tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    for shard in "ac":
        lines = (json.dumps({"text": words(60, seed)}) + "\n" for seed in range(10))
        (folder / f"train-{shard}.jsonl").write_text("".join(lines))
    (folder / "train-b.jsonl").write_text('{"text"')
    score = ["score", model_folder, "--dataset", str(folder), "--seq-len", "16", "--out", str(tmp_path / "o"), "--json"]
    code, _, error = run(*score)
    assert code == 2
    assert "cannot be loaded" in error
    code, printed, error = run(*score, "--skip-shards", "--overwrite")
    assert code == 0, error
    said = [warning["message"] for warning in json.loads(printed)["warnings"] if warning["kind"] == "text"]
    assert len(said) == 1
    assert "the rest of shard 2 of 3 is left out (" in said[0]
    code, _, error = run("score", model_folder, "--skip-shards", "--out", str(tmp_path / "p"))
    assert code == 2
    assert "--skip-shards belongs to --dataset" in error


def test_rank_orders_blocks_by_any_metric(run, scored):
    code, printed, _ = run("rank", scored, "--by", "block_influence", "--json")
    assert code == 0
    with open(f"{scored}/report.json") as file:
        blocks = json.load(file)["blocks"]
    assert json.loads(printed) == [b["index"] for b in sorted(blocks, key=lambda b: b["block_influence"])]
    assert "block_influence" in run("rank", scored, "--by", "block_influence")[1]


def test_doctor_shows_versions_and_the_backend(run):
    code, printed, _ = run("doctor")
    assert code == 0
    assert "\t" not in printed
    assert dict(line.split("\t") for line in run("doctor", "--plain")[1].splitlines())["torch"]
    for expected in (torch.__version__.split("+")[0], "triton", "transformers", "backend", "eager", "GPU"):
        assert expected in printed


def test_bench_prints_what_it_timed(run, monkeypatch):
    monkeypatch.setattr(bench, "kernel_table", lambda *_: [bench.KernelRow("gram", 2.0, 1.0, "torch", 3.0, 1.5)])
    code, printed, _ = run("bench", "--device", "cpu", "--json")
    [row] = json.loads(printed)["kernels"]
    assert (code, row["kernel"], row["seconds"], row["share"], row["ratio"]) == (0, "gram", 2.0, 0.5, 1.5)
    assert run("bench", "--device", "cpu", "--plain")[1].splitlines()[-1].split("\t")[:4] == [
        *("gram", "2000.000", "1000.000", "50%"),
    ]


def bad_calls(model: str, text: str, tmp) -> dict[str, tuple[list[str], str]]:
    empty, short, broken, bert = tmp / "empty.txt", tmp / "short.txt", tmp / "broken", tmp / "bert"
    empty.write_text("")
    short.write_text("w1 w2 w3")
    broken.mkdir()
    (broken / "config.json").write_text("{")
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=53)
    torch.manual_seed(0)
    BertLMHeadModel(config).save_pretrained(bert)
    tokenizer().save_pretrained(bert)
    nan = tmp / "nan"
    spoilt = tiny("llama")
    with torch.no_grad():
        spoilt.model.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    spoilt.save_pretrained(nan)
    tokenizer().save_pretrained(nan)
    score = ["score", model, "--text", text, "--seq-len", "16"]
    return {
        "missing file": (["score", model, "--text", str(tmp / "no.txt")], "does not exist"),
        "empty text": (["score", model, "--text", str(empty)], "empty"),
        "short text": (["score", model, "--text", str(short), "--seq-len", "16"], "sequence"),
        "unknown model": (["score", str(tmp / "no-model"), "--text", text], "no model"),
        "broken model": (["score", str(broken), "--text", text], "no causal language model"),
        "encoder": (["score", str(bert), "--text", text, "--seq-len", "16"], "not a decoder"),
        "nan weights": (["score", str(nan), "--text", text, "--seq-len", "16"], "finite"),
        "blocks 99": ([*score, "--blocks", "99"], "0 to 2"),
        "blocks x": ([*score, "--blocks", "1-x"], "0-5,7"),
        "folds 0": ([*score, "--folds", "0"], "folds"),
        "folds word": ([*score, "--folds", "two"], "two"),
        "two texts": ([*score, "--dataset", "x"], "one"),
        "batch 0": ([*score, "--batch-size", "0"], "batch-size"),
        "tokens 0": ([*score, "--tokens", "0"], "tokens"),
        "seq-len 0": (["score", model, "--text", text, "--seq-len", "0"], "seq-len"),
        "skip": ([*score, "--skip-first", "-1"], "skip"),
        "dtype": ([*score, "--dtype", "int8"], "dtype"),
        "device": ([*score, "--device", "quantum"], "device"),
        "precision": ([*score, "--precision", "best"], "precision"),
        "option": (["score", "--frobnicate"], "frobnicate"),
        "command": (["frobnicate"], "frobnicate"),
        "rank nowhere": (["rank", str(tmp / "nowhere")], "report.json"),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "missing file",
        "empty text",
        "short text",
        "unknown model",
        "broken model",
        "encoder",
        "nan weights",
        "blocks 99",
        "blocks x",
        "folds 0",
        "folds word",
        "two texts",
        "batch 0",
        "tokens 0",
        "seq-len 0",
        "skip",
        "dtype",
        "device",
        "precision",
        "option",
        "command",
        "rank nowhere",
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_leaves_results_alone(run, scored, model_folder, text, tmp_path, name):
    args, message = bad_calls(model_folder, text, tmp_path)[name]
    before = {entry.name: entry.read_bytes() for entry in (tmp_path / "out").iterdir()}
    code, printed, error = run(
        *args, *(["--out", scored, "--overwrite"] if args[0] == "score" and len(args) > 2 else [])
    )
    assert code == 2
    assert printed == ""
    assert error.startswith("linscore: ")
    assert error.count("\n") == 1
    assert message in error
    assert {entry.name: entry.read_bytes() for entry in (tmp_path / "out").iterdir()} == before


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(run, model_folder, text, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, error = run("score", model_folder, "--text", text, "--out", str(tmp_path / "file" / "out"))
    assert code == 2
    assert "cannot write" in error
    assert error.count("\n") == 1


def test_damaged_moments_beside_a_report_are_refused(run, scored, tmp_path):
    path = tmp_path / "out" / "moments.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    code, _, error = run("rank", scored)
    assert code == 2
    assert "moments.safetensors is damaged" in error
    assert error.count("\n") == 1


def test_a_report_that_is_no_report_is_refused(run, tmp_path):
    for content in ("{", "[]", '{"model": 1}'):
        (tmp_path / "report.json").write_text(content)
        code, _, error = run("rank", str(tmp_path))
        assert code == 2
        assert "damaged" in error


def test_an_interrupt_is_one_line_and_leaves_the_older_result(run, scored, model_folder, text, monkeypatch, tmp_path):
    before = (tmp_path / "out" / "report.json").read_bytes()

    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("linscore.scoring.collect.Collector.add_parts", interrupt)
    code, _, error = run("score", model_folder, "--text", text, "--seq-len", "16", "--out", scored)
    assert code == 130
    assert "interrupted" in error
    assert (tmp_path / "out" / "report.json").read_bytes() == before


def test_an_interruption_that_leaves_something_says_how_to_go_on(run, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise Interrupted("interrupted: go on with --resume")

    monkeypatch.setattr("linscore.jobs.rank.run_rank", interrupted)
    code, out, err = run("rank", "folder")
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "linscore: interrupted: go on with --resume"
