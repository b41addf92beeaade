"""Suites: names and metrics against lm-eval's own registry, shots against prompts written out, means worked by hand."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from linscore.cli import cli
from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.errors import LinscoreError
from linscore.evaluation.result import Evaluation
from linscore.evaluation.suites import SUITES, Suite, SuiteTask, chosen, with_retained
from linscore.evaluation.tasks import TaskResult, _homes, load_tasks, run_tasks

# Of lm-eval's; indexing all of them takes a quarter of a minute.
FOLDERS = ("arc", "glue/rte", "gsm8k", "hellaswag", "lambada", "mmlu/default", "openbookqa", "piqa", "race", "sciq")
FOLDERS += ("super_glue", "winogrande", "wsc273", "xstorycloze")
ROWS = [
    {"question": "is it so", "passage": "It is so.", "answer": True},
    {"question": "does it end", "passage": "It goes on.", "answer": False},
]
TWO = Suite((SuiteTask("a"), SuiteTask("b"), SuiteTask("c")), headline=("a", "b"))


def tasks_of(lm_eval):
    return Path(lm_eval.__file__).with_name("tasks")


def prompt(row):
    return f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"


def evaluated(name, *values):
    tasks = {
        task: TaskResult("acc", value, None, 10, {"acc": value}) for task, value in zip("abc", values, strict=True)
    }
    return Evaluation(model=name, form="", parameters=1, weights_mib=1.0, tasks=tasks)


@pytest.mark.slow
def test_lm_eval_has_every_task_and_the_metric_that_counts():
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    folders = [str(tasks_of(lm_eval) / folder) for folder in FOLDERS]
    index = TaskManager(include_path=folders, include_defaults=False).task_index
    for suite in SUITES.values():
        for task in suite.tasks:
            config = index[task.name].cfg
            metrics = config.get("metric_list") or config["aggregate_metric_list"]
            for name, _, filtered in (metric.partition(",") for metric in task.metrics):
                assert name in [one["metric"] for one in metrics], task
                assert not filtered or filtered in [one["name"] for one in config["filter_list"]]
            assert not config.get("unsafe_code")
    assert not {*SUITES} & {*_homes(tasks_of(lm_eval))}  # a name stands for one thing


def test_headlines_are_of_tasks_of_the_suite_and_help_names_every_suite():
    for suite in SUITES.values():
        names = [task.name for task in suite.tasks]
        assert len(set(names)) == len(names)
        assert {*suite.headline} <= {*names}
    (option,) = [one for one in cli.commands["evaluate"].params if one.name == "suite"]
    assert all(name in option.help for name in SUITES)


def test_what_is_said_of_the_papers():
    assert chosen(["replaceme"]).shots["winogrande"] == 5
    assert SUITES["replaceme"].headline == ("boolq", "hellaswag", "piqa", "mmlu")
    assert chosen(["nbl"]).shots["mmlu"] == 5
    assert sum(chosen(["nbl"]).shots.values()) == 5  # the others without an example
    assert {task.shots for task in SUITES["linearpatch"].tasks} == {0}
    pruned = {"boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"}
    assert {task.name for task in SUITES["pruning"].tasks} == pruned


def test_table_2_of_the_paper_is_the_mean_of_ten_figures_of_eight_tasks():
    # Its rows of Mistral 650M, plain and with the cosine regularizer, and the means that it prints.
    metrics = ("acc", "acc", "f1", "acc", "acc", "f1", "em", "acc", "acc", "acc")
    names = ("boolq", "cb", "cb", "copa", "multirc", "record", "record", "rte", "wic", "xstorycloze_en")
    rows = (
        ((48.50, 42.86, 21.96, 56.0, 56.97, 21.80, 21.05, 51.26, 51.10, 61.75), 43.33),
        ((57.50, 41.07, 28.57, 61.0, 57.10, 23.20, 22.54, 55.23, 50.00, 64.39), 46.06),
    )
    for row, mean in rows:
        results = {name: TaskResult("", 0.0, None, 1, {}) for name in names}
        for name, metric, value in zip(names, metrics, row, strict=True):
            results[name].metrics[metric] = value
        assert SUITES["paper"].mean(results) == pytest.approx(mean, abs=0.006)


def test_names_of_suites_stand_for_their_tasks_beside_others():
    found = chosen(["paper", "piqa", "boolq"])
    assert found.names == (*(task.name for task in SUITES["paper"].tasks), "piqa")
    assert found.suite == SUITES["paper"]
    assert "piqa" not in found.shots
    several = chosen(["pruning", "paper"])
    assert several.suite is None
    assert [several.names.count(name) for name in ("boolq", "record", "openbookqa")] == [1, 1, 1]
    assert chosen(["arc_easy"]).of_suites == {}
    with pytest.raises(LinscoreError, match="two ways: give them one after the other"):
        chosen(["replaceme", "pruning"])  # winogrande with 5 examples, and without


def test_an_average_is_of_the_headline_and_retained_is_of_the_uncut_model():
    ours = [evaluated("m", 0.6, 0.8, 0.1), evaluated("cut", 0.5, 0.55, 0.9), evaluated("rival", 0.7, 0.7, 0.2)]
    found = with_retained(TWO, ours, [None, "m", None])
    assert [one.average for one in found] == pytest.approx([0.7, 0.525, 0.7])
    assert [one.retained for one in found] == pytest.approx([100, 75, 100])


def test_a_cut_model_is_compared_with_what_it_was_cut_from_where_that_is_there():
    ours = [evaluated("m", 0.5, 0.5, 0), evaluated("n", 0.8, 0.8, 0), evaluated("of n", 0.4, 0.4, 0)]
    assert [one.retained for one in with_retained(TWO, ours, [None, None, "n"])] == pytest.approx([100, 160, 50])


def test_nothing_is_retained_of_a_model_that_is_cut_itself_or_knows_nothing():
    ours = [evaluated("cut", 0.5, 0.5, 0), evaluated("more cut", 0.4, 0.4, 0)]
    assert [one.retained for one in with_retained(TWO, ours, ["m", "m"])] == [None, None]
    assert with_retained(TWO, [evaluated("m", 0, 0, 1)], [None])[0].retained is None


def test_the_metric_of_the_suite_is_the_one_that_is_reported(monkeypatch):
    perplexity = {"perplexity": 9.0, "perplexity_stderr": 1.0, "acc": 0.4, "acc_stderr": 0.02}
    strict = {"exact_match,strict-match": 0.3, "exact_match_stderr,strict-match": 0.01}
    subject = TaskResult("acc", 1.0, None, 5, {"acc": 1.0})
    results = {
        "lambada": TaskResult("perplexity", 9.0, 1.0, 5, perplexity),
        "gsm8k": TaskResult("x", 0.0, None, 5, strict),
        **dict.fromkeys(("mmlu", "stem", "physics", "own"), subject),
    }
    tasks = (SuiteTask("lambada"), SuiteTask("gsm8k", 5, ("exact_match,strict-match",)), SuiteTask("mmlu"))
    monkeypatch.setitem(SUITES, "mine", Suite(tasks, ("lambada",)))
    groups = {"mmlu": ["stem"], "stem": ["physics"], "other": ["own"]}
    found = chosen(["mine", "other"]).results(results, groups)
    assert {name: (one.metric, one.value, one.stderr) for name, one in found.items()} == {
        "lambada": ("acc", 0.4, 0.02),
        "gsm8k": ("exact_match,strict-match", 0.3, 0.01),
        "mmlu": ("acc", 1.0, None),
        "own": ("acc", 1.0, None),
    }


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_shots_stand_in_front_of_each_question_alone_and_in_groups(tmp_path, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    mine = {"task": "mine", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
    mine |= {"test_split": "test", "fewshot_split": "test", "output_type": "multiple_choice"}
    mine |= {"doc_to_text": "{{passage}}\nQuestion: {{question}}?\nAnswer:", "doc_to_choice": ["no", "yes"]}
    mine |= {"doc_to_target": "{{answer|int}}", "metric_list": [{"metric": "acc"}]}
    group = {"group": "ours", "task": ["mine"], "aggregate_metric_list": [{"metric": "acc"}]}
    for one in (mine, group):
        (tmp_path / f"{next(iter(one.values()))}.yaml").write_text(json.dumps(one))  # JSON is YAML
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    boolq = str(tasks_of(lm_eval) / "super_glue" / "boolq")

    def small(include_path, include_defaults=True):
        return TaskManager(include_path=[boolq] * include_defaults + include_path, include_defaults=False)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", small)
    shots = {"boolq": 1, "ours": 1}
    loaded = load_tasks(["boolq", "ours"], task_data={"boolq": data}, include_path=tmp_path, shots=shots)
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL)
    results = run_tasks(model, AutoTokenizer.from_pretrained(EMBEDDED_MODEL), loaded, batch_size=2)
    assert results["ours"].metric == "acc"
    expected = {f"{prompt(ROWS[1])} no\n\n{prompt(ROWS[0])}", f"{prompt(ROWS[0])} yes\n\n{prompt(ROWS[1])}"}
    for name in ("boolq", "mine"):
        assert {instance.args[0] for instance in loaded["tasks"][name].instances} == expected
