"""Benchmark tasks; accuracies against log-likelihoods that plain transformers gives for each answer."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.errors import LinscoreError
from linscore.evaluation.task_data import task_rows
from linscore.evaluation.tasks import load_tasks, run_tasks

lm_eval = pytest.importorskip("lm_eval")
pytestmark = pytest.mark.usefixtures("one_thread")

FIXTURES = Path(__file__).parents[1] / "fixtures"  # in the schemata of ARC's and SuperGLUE's files
CB_LABELS = ["entailment", "contradiction", "neutral"]  # in the order of the Hub's classes
RTE_LABELS = ["entailment", "not_entailment"]
CHOICES = ["return None", "import os", "raise ValueError", "x = 1"]
QUESTIONS = ["What ends a function?", "What loads a module?", "What signals a mistake?", "What names a number?"]
PAIRS = [("def f(x): return x", "it returns"), ("import re", "it raises"), ("a list is a sequence", "a list is a set")]


@pytest.fixture(scope="module")
def embedded():
    return AutoModelForCausalLM.from_pretrained(
        EMBEDDED_MODEL, dtype=torch.float32
    ).eval(), AutoTokenizer.from_pretrained(EMBEDDED_MODEL)


@pytest.fixture
def small_lm_eval(monkeypatch):
    """lm-eval without its 14,000 tasks but for one folder; reading all takes long."""
    from lm_eval.tasks import TaskManager

    here = str(Path(lm_eval.__file__).with_name("tasks") / "super_glue" / "boolq")

    def small(include_path, include_defaults=True):
        return TaskManager(include_path=[here] * include_defaults + include_path, include_defaults=False)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", small)


@torch.no_grad()
def likelihoods(embedded, context, answers):
    """log p(answer | context) of each answer, float64."""
    model, tokenizer = embedded
    found = []
    for answer in answers:
        ids, given = tokenizer.encode(f"{context} {answer}"), len(tokenizer.encode(context))
        log_p = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        found.append(sum(float(log_p[at - 1, ids[at]]) for at in range(given, len(ids))))
    return np.array(found)


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def answered(embedded, name, file, **options):
    [result] = run_tasks(*embedded, load_tasks([name], task_data={name: file}), batch_size=3, **options).values()
    return result


def boolq_context(row):
    return f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"


BOOLQ = [
    {"question": f"{q[:-1].lower()} or not", "passage": f"{p}. {h}."}
    for q, (p, h) in zip(QUESTIONS, PAIRS, strict=False)
]


def test_arc_counts_the_answers_that_the_model_finds_likeliest(embedded, tmp_path):
    rows, right, right_by_length = [], [], []
    for at, question in enumerate(QUESTIONS):
        label = "ABCD"[at]
        rows.append({"question": question, "choices": {"text": CHOICES, "label": list("ABCD")}, "answerKey": label})
        found = likelihoods(embedded, f"Question: {question}\nAnswer:", CHOICES)
        right.append(found.argmax() == at)
        right_by_length.append((found / np.array([len(choice) for choice in CHOICES])).argmax() == at)
    result = answered(embedded, "arc_easy", written(tmp_path / "arc.jsonl", rows))
    assert (result.metric, result.samples) == ("acc", 4)
    assert result.value == result.metrics["acc"] == pytest.approx(np.mean(right))
    assert result.metrics["acc_norm"] == pytest.approx(np.mean(right_by_length))
    assert result.stderr == pytest.approx(np.std(right, ddof=1) / 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "labelled",
    [
        lambda yes: {"answer": bool(yes)},  # as Google published it
        lambda yes: {"label": bool(yes), "idx": 7},  # as SuperGLUE did
        lambda yes: {"label": int(yes)},  # as on the Hub
        lambda yes: {"label": ["false", "true"][yes]},
    ],
)
def test_boolq_takes_every_form_of_its_label(embedded, tmp_path, labelled):
    likeliest = [int(likelihoods(embedded, boolq_context(row), ["no", "yes"]).argmax()) for row in BOOLQ]
    given = [likeliest[0], likeliest[1], 1 - likeliest[2]]  # two of three right, whatever the model says
    rows = [row | labelled(yes) for row, yes in zip(BOOLQ, given, strict=True)]
    assert answered(embedded, "boolq", written(tmp_path / "boolq.jsonl", rows)).value == pytest.approx(2 / 3)


@pytest.mark.slow
@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_cb_and_its_f1_from_every_kind_of_file(embedded, tmp_path, words, suffix):
    template = "{}\nQuestion: {}. True, False, or Neither?\nAnswer:"
    likeliest = [likelihoods(embedded, template.format(*pair), ["True", "False", "Neither"]).argmax() for pair in PAIRS]
    given = [int(likeliest[0]), int(likeliest[1] + 1) % 3, int(likeliest[2])]
    rows = [
        {"premise": premise, "hypothesis": hypothesis, "label": CB_LABELS[label] if words else label}
        for (premise, hypothesis), label in zip(PAIRS, given, strict=True)
    ]
    file = tmp_path / f"cb{suffix}"
    if suffix == ".parquet":
        pd = pytest.importorskip("pandas")
        pd.DataFrame(rows).to_parquet(file)
    else:
        file.write_text(json.dumps(rows)) if suffix == ".json" else written(file, rows)
    result = answered(embedded, "cb", file)
    assert (result.metric, result.value, result.samples) == ("acc", pytest.approx(2 / 3), 3)
    assert result.metrics["f1"] == pytest.approx(macro_f1(np.array(likeliest), np.array(given)))


def macro_f1(found, given):
    """2·TP / (2·TP + FP + FN) of each class, averaged; 0 where nothing is there."""
    scores = []
    for label in range(3):
        hits = int(((found == label) & (given == label)).sum())
        total = int((found == label).sum() + (given == label).sum())
        scores.append(2 * hits / total if total else 0.0)
    return np.mean(scores)


def test_rte_words_are_its_classes(embedded, tmp_path):
    template = "{}\nQuestion: {} True or False?\nAnswer:"
    likeliest = [int(likelihoods(embedded, template.format(*pair), ["True", "False"]).argmax()) for pair in PAIRS]
    given = [1 - likeliest[0], likeliest[1], 1 - likeliest[2]]
    rows = [
        {"premise": premise, "hypothesis": hypothesis, "label": RTE_LABELS[label]}
        for (premise, hypothesis), label in zip(PAIRS, given, strict=True)
    ]
    file = written(tmp_path / "rte.jsonl", rows)
    assert answered(embedded, "sglue_rte", file).value == pytest.approx(1 / 3)


def test_words_become_the_classes_of_tasks_that_order_them_otherwise(tmp_path):
    file = written(tmp_path / "nli.jsonl", [{"label": word} for word in ("contradiction", "entailment", "neutral")])
    mnli = {"doc_to_target": "label", "doc_to_choice": ["True", "Neither", "False"]}  # entailment is class 0, neutral 1
    assert [row["label"] for row in task_rows(file, mnli)] == [2, 0, 1]


def test_limit_takes_the_first_rows_and_tasks_run_again_on_another_model(embedded, tmp_path):
    likeliest = [int(likelihoods(embedded, boolq_context(row), ["no", "yes"]).argmax()) for row in BOOLQ]
    rows = [
        row | {"label": label}
        for row, label in zip(BOOLQ, [likeliest[0], 1 - likeliest[1], 1 - likeliest[2]], strict=True)
    ]
    tasks = load_tasks(["boolq"], task_data={"boolq": written(tmp_path / "boolq.jsonl", rows)})
    values = [run_tasks(*embedded, tasks, batch_size=2, limit=n)["boolq"].value for n in (1, 2, None, 1)]
    assert values == pytest.approx([1, 1 / 2, 1 / 3, 1])


def test_nothing_is_printed_and_no_network_is_asked(embedded, tmp_path, monkeypatch, capfd):
    def refuse(*_):
        raise OSError("there is no network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    answered(embedded, "boolq", written(tmp_path / "boolq.jsonl", [row | {"answer": True} for row in BOOLQ]))
    assert capfd.readouterr() == ("", "")


OWN_TASK = """
dataset_path: nowhere
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{question}}"
doc_to_target: label
doc_to_choice: ["a", "b"]
"""


def test_tasks_of_an_own_folder_and_no_question_among_its_own_examples(embedded, tmp_path):
    (tmp_path / "own.yaml").write_text(f"task: own_task{OWN_TASK}num_fewshot: 1\n")
    questions = ["one", "two", "three", "four", "five", "six"]
    file = written(tmp_path / "own.jsonl", [{"question": question, "label": 0} for question in questions])
    tasks = load_tasks(["own_task"], task_data={"own_task": file}, include_path=tmp_path)
    assert run_tasks(*embedded, tasks, batch_size=2)["own_task"].samples == 6
    contexts = {instance.args[0] for instance in tasks["tasks"]["own_task"].instances}
    asked = {context.split("\n\n")[1]: context.split("\n\n")[0] for context in contexts}
    assert sorted(asked) == sorted(questions)
    assert all(example in {f"{other} a" for other in questions} - {f"{own} a"} for own, example in asked.items())


@pytest.mark.usefixtures("small_lm_eval")
@pytest.mark.parametrize("names", [["own_tag"], ["own_a", "own_tag"], ["own_group"]])
def test_a_tag_or_group_stands_for_all_its_tasks(embedded, tmp_path, monkeypatch, names):
    from datasets import Dataset

    for folder in ("own_a", "own_b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "task.yaml").write_text(f"task: {folder}\ntag: own_tag{OWN_TASK}")
    (tmp_path / "group.yaml").write_text("group: own_group\ntask:\n  - own_a\n  - own_b\n")
    data = {"validation": Dataset.from_list([{"question": "q", "label": 0}])}
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: data)
    results = run_tasks(*embedded, load_tasks(names, include_path=tmp_path), batch_size=2)
    assert {name: result.samples for name, result in results.items()} == {"own_a": 1, "own_b": 1}


@pytest.mark.usefixtures("small_lm_eval")
def test_an_unknown_task_is_refused_with_the_nearest_names():
    with pytest.raises(LinscoreError, match=r"no task 'bolq' .*boolq"):
        load_tasks(["boolq", "bolq"])


def test_without_network_the_message_names_the_way_out(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(LinscoreError, match=r"boolq cannot be loaded .*`task_data` with boolq=FILE"):
        load_tasks(["boolq"])


def test_without_lm_eval_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(LinscoreError, match=r"pip install 'linscore\[tasks\]'"):
        load_tasks(["boolq"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no rows"),
        ("[1, 2]\n", "holds no rows"),
        ("{no json", "cannot be read"),
        ('{"passage": "p", "question": "q", "label": "maybe"}', "row 1: label 'maybe' is none of the task's choices"),
        ('{"passage": "p", "question": "q", "label": -1}', "row 1: label -1"),
        ('{"label": 1}', "does not fit task boolq"),
        (None, "is no file"),
    ],
)
def test_data_that_does_not_fit_is_refused(tmp_path, content, words):
    file = tmp_path / "data.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(LinscoreError, match=words) as caught:
        load_tasks(["boolq"], task_data={"boolq": file})
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_data_for_a_task_that_does_not_run_and_a_folder_that_is_not_there_are_refused(tmp_path):
    with pytest.raises(LinscoreError, match="`task_data` names cb, not among `tasks`"):
        load_tasks(["boolq"], task_data={"cb": "cb.jsonl"})
    with pytest.raises(LinscoreError, match="no folder"):
        load_tasks(["boolq"], include_path=tmp_path / "none")


@pytest.mark.slow
def test_rows_as_published_need_no_network(monkeypatch):
    def refuse(*_):
        raise OSError("there is no network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL).eval()
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    files = {name: FIXTURES / f"{name}.jsonl" for name in ("arc_easy", "boolq", "cb")}
    results = run_tasks(model, tokenizer, load_tasks(list(files), task_data=files), batch_size=8, limit=20)
    assert {name: (result.metric, result.samples) for name, result in results.items()} == dict.fromkeys(
        files, ("acc", 20)
    )
    assert all(0 <= result.value <= 1 for result in results.values())
