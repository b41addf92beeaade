"""What is printed to be run next is run, and perplexity is one figure in rank, prune and evaluate."""

import json
import shlex

import pytest
from tiny_models import tiny
from transformers import AutoTokenizer

from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.jobs.rank import run_rank
from linscore.options.text import TextOptions
from linscore.spans import Span

CONTEXT = 48


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "a tiny llama"
    tiny("llama", vocab_size=2048, max_position_embeddings=CONTEXT).save_pretrained(folder)
    AutoTokenizer.from_pretrained(EMBEDDED_MODEL).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Documents shorter and longer than the context: no two ways to cut them agree by chance."""
    path = tmp_path_factory.mktemp("texts") / "it's $HOME.jsonl"
    lines = [[f"x{n} = {n * at}\n" for at in range(n)] for n in (3, 40, 1, 17, 25)]
    path.write_text("".join(json.dumps({"text": "".join(line)}) + "\n" for line in lines), encoding="utf-8")
    return path


def suggested(printed):
    """The commands that a command has printed, as a shell splits them."""
    lines = [line for line in printed.splitlines() if line.startswith(("next ", "         linscore"))]
    return [shlex.split(line.removeprefix("next"))[1:] for line in lines]


def evaluated(run, *words):
    code, printed, error = run(*words, "--json")
    assert code == 0, error
    return json.loads(printed)["evaluations"]


@pytest.mark.slow
def test_one_text_has_one_perplexity_and_what_is_printed_runs(run, model, text, tmp_path):
    scores, out = tmp_path / "scores of it", tmp_path / "cut 1"
    about = ("--text", text, "--tokens", 500, "--device", "cpu")
    code, printed, error = run("score", model, *about, "--seq-len", 16, "--out", scores)
    assert code == 0, error
    assert suggested(printed) == [
        ["rank", str(scores)],
        ["rank", str(scores), "--text", str(text), "--tokens", "500"],
    ]
    tables = [run(*words)[1] for words in suggested(printed)]
    assert "by block_influence, lowest first" in tables[0]
    assert "by perplexity, lowest first" in tables[1]

    ranking = run_rank(str(scores), text=TextOptions(text=str(text), tokens=500))
    code, printed, error = run("prune", model, *about, "--drop", 1, "--out", out)
    assert code == 0, error
    (words,) = suggested(printed)
    assert words == ["evaluate", str(model), str(out), *map(str, about)]
    whole, cut = evaluated(run, *words)
    choice = json.loads((out / "linscore.json").read_text())["choice"]
    assert (choice["by"], choice["sequential"], choice["scored"]["tokens"]) == ("perplexity", True, 500)
    assert whole["tokens"] == cut["tokens"] == 500
    (block,) = choice["blocks"]
    assert ranking.whole == choice["whole"] == pytest.approx(whole["perplexity"], rel=1e-9)
    assert ranking.figures[Span(block, block)] == choice["figures"][str(block)] == pytest.approx(cut["perplexity"])
    assert f"perplexity {whole['perplexity']:.4f} on 500 tokens of {text} to become {cut['perplexity']:.4f}" in printed


@pytest.mark.slow
def test_a_second_block_is_measured_without_the_first(run, model, text, tmp_path):
    about = ("--text", text, "--seq-len", 20, "--dtype", "float32", "--out", tmp_path / "cut")
    code, printed, error = run("prune", model, "--drop", 2, *about)
    assert code == 0, error
    (words,) = suggested(printed)
    assert words[3:] == ["--text", str(text), "--dtype", "float32", "--window", "20"]
    whole, cut = evaluated(run, *words)
    choice = json.loads((tmp_path / "cut" / "linscore.json").read_text())["choice"]
    assert choice["whole"] == pytest.approx(whole["perplexity"], rel=1e-9)
    assert list(choice["figures"].values())[-1] == pytest.approx(cut["perplexity"], rel=1e-6)


def test_standard_input_is_not_asked_for_again(run, monkeypatch):
    monkeypatch.setattr("linscore.jobs.train.run_train", trained)
    code, printed, error = run("train", "--config", "1M", "--text", "-", "--out", "runs/new one")
    assert code == 0, error
    assert suggested(printed) == [["score", "runs/new one/model"]]


def trained(*_args, out, **_asked):
    from types import SimpleNamespace as Told

    scored = Told(mean=lambda _figure: 0.5)
    return Told(parameters=1, tokens=1, text="-", dynamics=Told(scored=[scored]), heldout_loss=1.0, out=out)
