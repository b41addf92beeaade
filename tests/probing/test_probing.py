"""Linear probes, against states gathered one text at a time by plain transformers and probes fitted by hand."""

import csv
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from tiny_models import DEPTH, WIDTH, tiny
from transformers import AutoTokenizer

from linscore.decoder.find import find_decoder
from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.errors import LinscoreError
from linscore.jobs.probe import run_probe
from linscore.probing.features import pooled_states, text_features
from linscore.probing.probe import probe_layers
from linscore.probing.table import probe_table
from linscore.text.labelled import Source, labelled_texts

pytestmark = pytest.mark.usefixtures("one_thread")
DATA = Path(__file__).parents[2] / "shared" / "data"
TEXTS = ["a", "def double(x):", "import os\nimport sys  # é", "return x", "class A:\n    pass", "raise ValueError(x)"]
LONGEST = 64
CONTEXT = 6


def labelled(path, **fields):
    return labelled_texts(Source(str(path), None), **fields)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(EMBEDDED_MODEL)


def decoder(family="llama", **changes):
    return find_decoder(tiny(family, vocab_size=2048, **changes))


@torch.no_grad()
def states_of(model, ids):
    """[L + 1, T, d] of one text without padding; the last one before the final norm, by a hook of this test's own."""
    kept = []
    last = find_decoder(model).blocks[-1]
    hook = last.register_forward_hook(lambda _block, _args, out: kept.append(out[0] if isinstance(out, tuple) else out))
    ids = torch.tensor([ids])
    states = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    hook.remove()
    if model.config.model_type == "mamba":  # transformers' list begins behind the first block
        return torch.cat([model.get_input_embeddings()(ids), *states[:-1]])
    return torch.cat([*states[:-1], *kept])


def features(found, tokenizer, texts=TEXTS, **options):
    return text_features(found, tokenizer, texts, **{"longest": LONGEST, "batch_tokens": 40, **options})


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "mamba"])
def test_features_are_the_states_of_each_text_alone(family, tokenizer):
    found = decoder(family)
    one_by_one = [states_of(found.model, tokenizer.encode(text, add_special_tokens=False)) for text in TEXTS]
    last = torch.stack([states[:, -1] for states in one_by_one], 1)
    mean = torch.stack([states.mean(1) for states in one_by_one], 1)
    assert last.shape == (DEPTH + 1, len(TEXTS), WIDTH)
    torch.testing.assert_close(features(found, tokenizer).states, last, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features(found, tokenizer, pool="mean").states, mean, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_the_side_of_the_padding_changes_nothing(pool):
    found, token = decoder(), 5
    rows = [[7, 8, 9, 10], [11, 12], [13, 14, 15]]
    alone = [pooled_states(found, torch.tensor([row]), torch.ones(1, len(row)), pool) for row in rows]
    for left in (True, False):
        pads = [[token] * (6 - len(row)) for row in rows]
        ids = [pad + row if left else row + pad for pad, row in zip(pads, rows, strict=True)]
        masks = [[0] * len(pad) + [1] * len(row) for pad, row in zip(pads, rows, strict=True)]
        masks = masks if left else [mask[::-1] for mask in masks]
        together = pooled_states(found, torch.tensor(ids), torch.tensor(masks), pool)
        torch.testing.assert_close(together, torch.cat(alone, 1), atol=1e-5, rtol=1e-4)


def test_batches_and_the_tokenizers_padding_side_change_nothing(tokenizer):
    found, expected = decoder(), None
    for side, options in (("left", {"batch_size": 1}), ("right", {"batch_size": 4}), ("left", {"batch_tokens": 1000})):
        tokenizer.padding_side = side
        states = features(found, tokenizer, **options).states
        expected = states if expected is None else expected
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-4)


def test_long_texts_lose_their_end_and_are_counted(tokenizer):
    found = decoder()
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    cut = features(found, tokenizer, longest=3)
    assert cut.truncated == sum(len(tokens) > 3 for tokens in ids) > 0
    expected = torch.stack([states_of(found.model, tokens[:3])[:, -1] for tokens in ids], 1)
    torch.testing.assert_close(cut.states, expected, atol=1e-5, rtol=1e-4)


def test_what_the_tokenizer_puts_in_front_stays_and_what_it_puts_behind_goes(tokenizer):
    class Framing:
        """[1] text [2], as BERT-like tokenizers frame a text."""

        eos_token_id = 2

        def __call__(self, text, add_special_tokens, **_options):
            ids = tokenizer.encode(text, add_special_tokens=False)
            return {"input_ids": [1, *ids, 2] if add_special_tokens else ids}

    found = decoder()
    expected = [states_of(found.model, [1, *tokenizer.encode(t, add_special_tokens=False)])[:, -1] for t in TEXTS]
    torch.testing.assert_close(features(found, Framing()).states, torch.stack(expected, 1), atol=1e-5, rtol=1e-4)


def test_states_that_are_not_finite_are_refused(tokenizer):
    found = decoder()
    with torch.no_grad():
        found.blocks[1].mlp.down_proj.weight.fill_(math.inf)
    with pytest.raises(LinscoreError, match=r"not finite .* in layer 2"):
        features(found, tokenizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "first"}, "--pool is 'first': give last or mean"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"texts": ["a", ""]}, "row 2 is empty"),
    ],
)
def test_features_that_cannot_be_had(tokenizer, options, message):
    with pytest.raises(LinscoreError, match=message):
        features(decoder(), tokenizer, **options)


def samples(n=90, width=12, layers=3, seed=0):
    """Features with unlike scales, and labels of three classes that say something about the last layer only."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(layers, n, width)) * np.logspace(-2, 2, width) + 3
    scores = (states[-1] - 3) / np.logspace(-2, 2, width) @ rng.normal(size=(width, 3)) + rng.normal(size=(n, 3))
    return torch.tensor(states, dtype=torch.float32), [f"class {c}" for c in scores.argmax(1)]


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


ROWS = [{"premise": f"x = {n}", "hypothesis": f"y = {n % 7}", "label": "odd" if n % 2 else "even"} for n in range(24)]


def written(folder, kind, rows=ROWS):
    path = folder / f"data.{kind}"
    if kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    elif kind == "parquet":
        import pyarrow
        from pyarrow.parquet import write_table

        write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)) + "\n\n")
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_texts_of_several_columns_from_every_format(tmp_path, kind):
    found = labelled(written(tmp_path, kind), text_field="premise, hypothesis")
    assert found.texts == [f"x = {n}\ny = {n % 7}" for n in range(24)]
    assert found.labels == ["even", "odd"] * 12
    alone = labelled(written(tmp_path, kind), text_field="hypothesis", label_field="premise")
    assert (alone.texts[3], alone.labels[3]) == ("y = 3", "x = 3")


def test_labels_may_be_integers_and_booleans(tmp_path):
    rows = [{"text": "a", "label": True}, {"text": "b\ud800", "label": 0}]
    assert labelled(written(tmp_path, "jsonl", rows)) == (["a", "b?"], ["True", "0"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "a", "label": 1}], "no column 'text' but question, label: give --text-field"),
        ([{"text": "a", "answer": 1}], "no column 'label' but text, answer"),
        ([{"text": "a", "label": 1}, {"text": None, "label": 1}], "row 2: its 'text' is no text but None"),
        ([{"text": "a", "label": 1}, {"text": "b"}], "row 2: its 'label' is None"),
        ([{"text": "a", "label": 0.5}], "row 1: its 'label' is 0.5"),
        ([], "holds no rows"),
        (["text"], "holds no rows"),
    ],
)
def test_data_that_cannot_be_used(tmp_path, rows, message):
    with pytest.raises(LinscoreError, match=message):
        labelled(written(tmp_path, "json", rows))


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", "{"), ("a.parquet", "x"), ("a.csv", "\xff"), ("a.json", "1")]
)
def test_files_that_cannot_be_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(LinscoreError, match=r"--data .*a\.\w+ (cannot be read|holds no rows)"):
        labelled(tmp_path / name)
    with pytest.raises(LinscoreError, match="is no file"):
        labelled(tmp_path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("model")
    tiny("llama", vocab_size=2048, max_position_embeddings=CONTEXT).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


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
    with pytest.raises(LinscoreError, match="exists: give --out"):
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


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
def test_published_data_can_be_read():
    bank = labelled(DATA / "superglue_cb_train.jsonl", text_field="premise,hypothesis")
    assert {label: bank.labels.count(label) for label in set(bank.labels)} == {
        "contradiction": 119,
        "entailment": 115,
        "neutral": 16,
    }
    questions = labelled(DATA / "superglue_boolq_dev.jsonl", text_field="question,passage", label_field="answer")
    assert len(questions.texts) == 3270
    assert set(questions.labels) == {"True", "False"}
