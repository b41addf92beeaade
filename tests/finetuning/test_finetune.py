"""Fine-tuning and its effect on scores: against states gathered by hand, formulas, and tasks that can be learned."""

import json
import math
import statistics

import numpy as np
import pytest
import torch
from asked import asked
from oracles import svd_scores
from stacked import stacked_states
from tiny_models import DEPTH, tiny
from transformers import AutoTokenizer

from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.errors import LinscoreError
from linscore.finetuning.delta import FinetuneDelta, Spread
from linscore.finetuning.examples import class_examples, preference_examples, split
from linscore.finetuning.fine_tune import Finetuning, accuracy, fine_tune
from linscore.jobs.finetune_delta import run_finetune_delta
from linscore.models.load import load_with_head
from linscore.terminal import ranges
from linscore.text.labelled import LabelledTexts, Preferences

run_finetune_delta = asked(run_finetune_delta)

pytestmark = pytest.mark.usefixtures("one_thread")

CONTEXT = 24
GOOD, BAD = "return x", "raise error"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(EMBEDDED_MODEL)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("model")
    tiny("llama", vocab_size=2048, max_position_embeddings=CONTEXT).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def sentence(number):
    return f"x = {number % 13}\ny = [{'a' * (number % 5)}]"


ROWS = [{"text": f"{sentence(n)} {GOOD if n % 2 else BAD}", "label": n % 2} for n in range(60)]
PAIRS = [{"chosen": f"{sentence(n)} {GOOD}", "rejected": f"{sentence(n)} {BAD}"} for n in range(40)]


def written(folder, rows):
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def delta_of(checkpoint, folder, rows, **options):
    given = {"seeds": 2, "epochs": 4, "learning_rate": 5e-3, "device": "cpu", **options}
    return run_finetune_delta(checkpoint, data=written(folder, rows), **given)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "task"), [(ROWS, "classification"), (PAIRS, "reward")])
def test_a_task_is_learned_and_its_texts_are_scored(checkpoint, tokenizer, tmp_path, rows, task):
    result = delta_of(checkpoint, tmp_path, rows, task=task)
    assert result.accuracy.mean > 0.95 > 0.6 > result.baseline
    texts = [row[name] for row in rows for name in ("text", "chosen", "rejected") if name in row]
    untrained = load_with_head(checkpoint, 2, device="cpu").model.model
    alone = [stacked_states(untrained, torch.tensor([tokenizer(text)["input_ids"]])) for text in texts]
    for block in range(DEPTH):
        x, y = (torch.cat([pairs[block][side] for pairs in alone]) for side in (0, 1))
        assert result.tokens == len(x)
        for name, wanted in zip(("linearity", "linearity_no_residual"), svd_scores(x, y), strict=True):
            assert result.before[name][block] == pytest.approx(wanted, abs=1e-5)
            moved = [one.after[name][block] - result.before[name][block] for one in result.seeds]
            found = result.delta(name, block)
            assert found.mean == pytest.approx(np.mean(moved))
            assert found.std == pytest.approx(np.std(moved, ddof=1))
            assert 0 not in moved


@pytest.mark.slow
def test_the_default_rate_learns_and_what_learns_nothing_is_warned_of(checkpoint, tmp_path):
    """The default suits a width of 32 as 2e-5, what is common at 4,096, does there; that one moves nothing here."""
    rows = [{"text": row["text"], "label": row["label"]} for row in ROWS * 3]
    learned = run_finetune_delta(checkpoint, data=written(tmp_path, rows), device="cpu", seeds=1)
    assert learned.settings["learning_rate"] == pytest.approx(2e-5 * 4096 / 32, rel=0.05)
    assert learned.accuracy.mean > 0.9 > learned.baseline
    assert not [one for one in learned.warnings if "held-out" in one]
    slow = delta_of(checkpoint, tmp_path, ROWS[:20], epochs=1, learning_rate=1e-30)
    failed = [one.seed for one in slow.seeds if one.accuracy <= slow.baseline]
    (told,) = [one for one in slow.warnings if "no better than without a model (0.5000)" in one]
    assert told.startswith(f"seed{'s' * (len(failed) > 1)} {ranges(failed)}: ")


def test_scores_afterwards_are_those_of_the_trained_weights(checkpoint, tokenizer, tmp_path):
    """With a rate that moves nothing they are the scores before; the text may be another one."""
    text = tmp_path / "text.txt"
    text.write_text("def f(x):\n    return x\n" * 40, encoding="utf-8")
    result = delta_of(checkpoint, tmp_path, ROWS, learning_rate=1e-30, epochs=1, seeds=1, score_text=str(text))
    assert result.seeds[0].after == result.before
    whole = len(tokenizer(text.read_text(encoding="utf-8"))["input_ids"]) + 1
    assert result.tokens == whole - whole % CONTEXT
    assert result.delta("linearity", 0) == Spread(0.0, None)


@pytest.mark.slow
def test_the_same_seeds_give_the_same_result_and_others_differ(checkpoint, tmp_path):
    options = {"epochs": 1, "out": str(tmp_path / "out")}
    one = delta_of(checkpoint, tmp_path, ROWS, **options)
    other = delta_of(checkpoint, tmp_path, ROWS, epochs=1)
    assert one == other
    assert one.seeds[0].after != one.seeds[1].after
    told = json.loads((tmp_path / "out" / "finetune.json").read_text())
    assert told["seeds"][1]["accuracy"] == one.seeds[1].accuracy
    means = [statistics.fmean(seed.after["cosine"]) - statistics.fmean(one.before["cosine"]) for seed in one.seeds]
    assert told["delta"]["cosine"]["mean"] == {
        "mean": pytest.approx(statistics.fmean(means)),
        "std": pytest.approx(statistics.stdev(means)),
    }


def test_a_reward_is_trained_by_the_preferences(checkpoint, tokenizer):
    """−log σ of the difference, by hand; and an untrained model is right where its logits say so."""
    examples = preference_examples(Preferences([GOOD, "a b c"], [BAD, "c b"]), tokenizer, CONTEXT)
    model = load_with_head(checkpoint, 1, device="cpu").model.eval()
    rewards = [[model(torch.tensor([ids])).logits.item() for ids in pair] for pair in examples.ids]
    losses = []
    settings = Finetuning(epochs=1, batch_size=2, learning_rate=1e-30)
    fine_tune(model.eval(), examples, [0, 1], settings, seed=0, progress=lambda _step, loss: losses.append(loss))
    wanted = statistics.fmean(math.log1p(math.exp(rejected - chosen)) for chosen, rejected in rewards)
    assert losses == [pytest.approx(wanted, rel=1e-4)]
    assert accuracy(model, examples, [0, 1], 1) == statistics.fmean(good > bad for good, bad in rewards)


def test_long_texts_lose_their_beginning(tokenizer):
    text = "import os\n" * 30 + GOOD
    examples = class_examples(LabelledTexts([text, BAD, BAD, text], ["a", "b", "b", "a"]), tokenizer, 10)
    assert examples.texts[0] == tokenizer(text)["input_ids"][-10:]
    assert examples.texts[1] == tokenizer(BAD)["input_ids"]
    assert examples.truncated == 2
    assert (examples.labels, examples.classes, examples.baseline) == ([0, 1, 1, 0], ["a", "b"], 0.5)


def test_a_fifth_of_each_class_is_held_out(tokenizer):
    labels = ["a"] * 30 + ["b"] * 10
    examples = class_examples(LabelledTexts([GOOD] * 40, labels), tokenizer, CONTEXT)
    training, heldout = split(examples, 0)
    assert sorted(training + heldout) == list(range(40))
    assert [labels[place] for place in sorted(heldout)] == ["a"] * 6 + ["b"] * 2
    assert split(examples, 1)[1] != heldout


def test_spreads():
    assert Spread.of([1.0]) == Spread(1.0, None)
    assert Spread.of([1.0, None]) is None
    assert Spread.of([1.0, 2.0, 6.0]) == Spread(3.0, pytest.approx(np.std([1, 2, 6], ddof=1)))


def test_the_command_prints_a_row_per_block(run, checkpoint, tmp_path):
    data = written(tmp_path, ROWS)
    code, printed, error = run(
        "finetune-delta", checkpoint, "--data", data, "--epochs", 1, "--seeds", 1, "--out", tmp_path / "o"
    )
    assert code == 0, error
    assert f"result   {tmp_path}/o/finetune.json" in printed
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("│")] == ["0", "1", "2", "mean"]
    assert "one seed: no spread" in printed
    text = (tmp_path / "o" / "finetune.json").read_text()
    assert json.loads(text)["data"] == "./../data.jsonl"
    assert str(tmp_path) not in text
    assert checkpoint not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give `data` or `dataset`"),
        ({"data": "nowhere.jsonl"}, "nowhere.jsonl is no file"),
        ({"rows": ROWS, "task": "regression"}, "`task` is 'regression'"),
        ({"rows": ROWS, "task": "reward"}, "no column 'chosen' but text, label"),
        ({"rows": ROWS[:1] * 5}, "every label is '0'"),
        ({"rows": ROWS[:3]}, "class '1' has one text"),
        ({"rows": [{"text": "", "label": n % 2} for n in range(8)]}, "the text of row 1 is empty"),
        ({"rows": ROWS, "longest": 100}, "longer than the context"),
        ({"rows": ROWS, "seeds": 0}, "`seeds` is 0"),
        ({"rows": ROWS, "epochs": 0}, "`epochs` is 0"),
        ({"rows": ROWS, "learning_rate": -1.0}, "`learning_rate` is -1.0"),
        ({"rows": ROWS, "learning_rate": 1e30, "epochs": 9}, "is not finite"),
        ({"rows": ROWS, "score_text": "nowhere.txt"}, "nowhere.txt does not exist"),
    ],
)
def test_what_cannot_be_used_leaves_nothing(checkpoint, tmp_path, options, message):
    given = {name: value for name, value in options.items() if name != "rows"}
    if "rows" in options:
        given["data"] = written(tmp_path, options["rows"])
    with pytest.raises(LinscoreError, match=message):
        run_finetune_delta(checkpoint, device="cpu", out=str(tmp_path / "out"), **given)
    assert not (tmp_path / "out").exists()


def test_families_without_such_a_head_are_refused(tmp_path, tokenizer):
    tiny("mamba", vocab_size=2048).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(LinscoreError, match="no head for mamba"):
        load_with_head(str(tmp_path), 2, device="cpu")


def test_results_say_what_they_are(checkpoint, tmp_path):
    result = delta_of(checkpoint, tmp_path, ROWS, epochs=1, seeds=1)
    assert isinstance(result, FinetuneDelta)
    assert (result.examples, result.classes, result.truncated) == (60, ["0", "1"], 0)
    assert result.settings == {"epochs": 1, "batch_size": 16, "learning_rate": 5e-3, "longest": CONTEXT}
