"""Linear probes, against probes fitted by hand, and the job that fits them for every layer."""

import json
import math
import os

import numpy as np
import pytest
import torch
from asked import asked
from labelled import CONTEXT, ROWS, written
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from tiny_models import DEPTH, tiny

from linscore.errors import LinscoreError
from linscore.jobs.probe import run_probe
from linscore.probing.probe import probe_layers
from linscore.probing.table import probe_table

run_probe = asked(run_probe)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("model")
    tiny("llama", vocab_size=2048, max_position_embeddings=CONTEXT).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def samples(n=90, width=12, layers=3, seed=0):
    """Features with unlike scales, and labels of three classes that say something about the last layer only."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(layers, n, width)) * np.logspace(-2, 2, width) + 3
    scores = (states[-1] - 3) / np.logspace(-2, 2, width) @ rng.normal(size=(width, 3)) + rng.normal(size=(n, 3))
    return torch.tensor(states, dtype=torch.float32), [f"class {c}" for c in scores.argmax(1)]


@pytest.mark.slow
def test_a_probe_is_a_standardized_logistic_regression_on_stratified_folds():
    states, labels = samples()
    found = probe_layers(states, labels, seed=3)
    y = np.array(labels)
    for layer, x in enumerate(states.numpy().astype(np.float64)):
        accuracy, macro_f1 = [], []
        for train, test in StratifiedKFold(5, shuffle=True, random_state=3).split(x, y):
            scaler = StandardScaler().fit(x[train])
            fitted = LogisticRegression(C=1.0, max_iter=1000).fit(scaler.transform(x[train]), y[train])
            answers = fitted.predict(scaler.transform(x[test]))
            accuracy.append(accuracy_score(y[test], answers))
            macro_f1.append(f1_score(y[test], answers, average="macro"))
        expected = [np.mean(accuracy), np.std(accuracy, ddof=1), np.mean(macro_f1), np.std(macro_f1, ddof=1)]
        one = found[layer]
        assert [one.accuracy, one.accuracy_std, one.macro_f1, one.macro_f1_std] == pytest.approx(expected, abs=1e-12)
        assert (one.layer, one.converged) == (layer, True)


def test_a_linear_label_is_found_and_a_random_one_is_not():
    rng = np.random.default_rng(0)
    states = torch.tensor(rng.normal(size=(2, 400, 16)), dtype=torch.float32)
    linear = np.where(states[1].numpy() @ rng.normal(size=16) > 0, "yes", "no")
    blind, seeing = probe_layers(states, list(linear))
    assert seeing.accuracy > 0.95
    assert seeing.macro_f1 > 0.95
    chance = 3 * 0.5 / math.sqrt(400)  # three standard deviations of guessing
    assert abs(blind.accuracy - 0.5) < chance + 0.02
    for one in probe_layers(states, list(rng.permutation(linear))):
        assert abs(one.accuracy - 0.5) < chance + 0.02


@pytest.mark.slow
def test_the_job_probes_every_layer_and_writes_a_new_folder(tmp_path, checkpoint, tokenizer):
    data, out = written(tmp_path, "jsonl"), tmp_path / "out"
    options = {"data": data, "text_field": "premise,hypothesis", "device": "cpu", "out": str(out)}
    found = run_probe(checkpoint, **options)
    texts = [f"{row['premise']}\n{row['hypothesis']}" for row in ROWS]
    lengths = [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    assert [one.layer for one in found.layers] == list(range(DEPTH + 1))
    assert (found.texts, found.longest, found.truncated) == (24, CONTEXT, sum(length > CONTEXT for length in lengths))
    assert found.truncated > 0
    assert (found.classes, found.majority) == ({"even": 12, "odd": 12}, 0.5)
    assert sorted(path.name for path in out.iterdir()) == ["probe.json", "probe.png"]
    told = json.loads((out / "probe.json").read_text())
    assert [one["accuracy"] for one in told["layers"]] == [one.accuracy for one in found.layers]
    assert (out / "probe.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(LinscoreError, match="exists: give another `out`"):
        run_probe(checkpoint, **options)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["odd"] * 24, "every label is 'odd'"),
        (["odd"] * 20 + ["even"] * 4, "class 'even' has 4 of 24 texts, but 5 folds"),
    ],
)
def test_classes_that_cannot_be_probed(tmp_path, checkpoint, labels, message):
    rows = [{"text": "a", "label": label} for label in labels]
    with pytest.raises(LinscoreError, match=message):
        run_probe(checkpoint, data=written(tmp_path, "jsonl", rows), out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_table_has_a_row_per_layer_and_the_doubts(tmp_path, checkpoint):
    found = run_probe(checkpoint, data=written(tmp_path, "csv"), text_field="premise,hypothesis", device="cpu")
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(probe_table(found))
    shown = console.export_text()
    for one in found.layers:
        [row] = [line for line in shown.splitlines() if line.split()[1:2] == [str(one.layer)]]
        assert f"{one.accuracy:.4f}" in row
        assert f"{one.macro_f1:.4f}" in row
    told = " ".join(shown.split())  # lines wrap, the sooner the longer the model's path is
    assert "most frequent class: 0.5000" in told
    assert f"{found.truncated} of the texts lost their end: a text is read up to {CONTEXT} tokens" in told
