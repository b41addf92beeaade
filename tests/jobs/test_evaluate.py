"""Evaluations of saved models, against transformers' own loss of the same text and figures counted by hand."""

import json
import math
import weakref

import pytest
import torch
from asked import asked
from cut_models import doing_nothing
from linear_models import zero_map
from rich.console import Console
from tiny_models import DEPTH, tiny
from transformers import AutoTokenizer

from linscore import drop, linearize
from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.errors import LinscoreError
from linscore.evaluation.result import Evaluation, to_json
from linscore.evaluation.suites import SUITES, Suite, SuiteTask
from linscore.evaluation.table import evaluation_table
from linscore.evaluation.tasks import TaskResult
from linscore.jobs.evaluate import run_evaluate
from linscore.models.load import load_pretrained
from linscore.surgery.record import Record, Replacement
from linscore.surgery.save import save_checkpoint

run_evaluate = asked(run_evaluate)

pytestmark = pytest.mark.usefixtures("one_thread")
CONTEXT = 48
TEXT = "def double(x):\n    return 2 * x  # é\n"


def tokenizer():
    """A byte-level one that puts nothing in front of a text."""
    return AutoTokenizer.from_pretrained(EMBEDDED_MODEL)


def model():
    return tiny("llama", vocab_size=2048, max_position_embeddings=CONTEXT)


def record(operation, distilled=None):
    sizes = dict.fromkeys(["depth_before", "depth", "parameters_before", "parameters"], 1)
    flops = {"flops_per_token_before": 1, "flops_per_token": 1}
    form = {"drop": "dropped", "linearize": "linear", "fuse": "fused"}[operation]
    replacements = [Replacement("1", form, 0)]
    return Record(operation=operation, model="m", replacements=replacements, **sizes, **flops, distilled=distilled)


def saved(folder, what, done=None):
    """A folder with a model, its tokenizer and, where something was done to it, the record of that."""
    folder.mkdir()
    if done is None:
        what.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
    else:
        save_checkpoint(folder, what, tokenizer())
        done.save(folder)
    return str(folder)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


@pytest.fixture
def boolq(tmp_path):
    path = tmp_path / "boolq.jsonl"
    path.write_text('{"question": "is it so", "passage": "It is so.", "answer": true}\n' * 3)
    return f"boolq={path}"


@torch.no_grad()
def loss_of(what):
    ids = torch.tensor([tokenizer().encode(TEXT)])
    assert ids.shape[1] <= CONTEXT
    return what(input_ids=ids, labels=ids).loss.item()


def shown(evaluations):
    console = Console(width=150, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(evaluation_table(evaluations))
    return console.export_text()


def test_a_model_has_the_figures_of_its_text(tmp_path, text):
    what = model()
    [found] = run_evaluate([saved(tmp_path / "model", what)], text=text, device="cpu")
    ids = tokenizer().encode(TEXT)
    size = len(TEXT.encode()) - len(tokenizer().decode(ids[:1]).encode())
    expected = loss_of(what)
    assert (found.form, found.text, found.window, found.stride) == ("original", text, CONTEXT, CONTEXT // 2)
    assert (found.tokens, found.bytes) == (len(ids) - 1, size)
    assert found.loss == pytest.approx(expected, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(expected), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(expected * found.tokens / math.log(2) / size, rel=1e-5)
    assert found.tokens_per_second > 0
    assert found.peak_mib is None
    assert found.tasks == {}


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_count_once_where_they_are_tied(tmp_path, text, tied):
    what = tiny("llama", vocab_size=2048, max_position_embeddings=CONTEXT, tie_word_embeddings=tied)
    [found] = run_evaluate([saved(tmp_path / "model", what)], text=text, device="cpu")
    embedding, heads = 2048 * 32, 16 // 2  # rotary frequencies: half the features of a head
    # q and o are 32 × 32, k and v half of that, three projections of 48 × 32, two norms; one norm at the end.
    block = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32 + 2 * 32
    expected = embedding * (1 if tied else 2) + DEPTH * block + 32
    assert found.parameters == expected
    assert found.weights_mib == pytest.approx(4 * expected / 2**20, abs=8 * heads / 2**20)


@pytest.mark.slow
def test_models_side_by_side_are_what_the_surgery_left(tmp_path, text):
    what = model()
    names = [
        saved(tmp_path / "original", what),
        saved(tmp_path / "dropped", drop(what, [1]), record("drop")),
        saved(tmp_path / "linearized", linearize(what, {1: zero_map()}), record("linearize")),
        saved(tmp_path / "fused", what, record("fuse")),
        saved(tmp_path / "distilled", drop(what, [1]), record("drop", {"steps": 7})),
    ]
    found = run_evaluate(names, text=text, device="cpu")
    assert [one.model for one in found] == names
    assert [one.form for one in found] == ["original", "dropped", "linearized", "fused", "distilled"]
    whole = loss_of(what)
    with doing_nothing(what, [1]):  # a map of zeros adds as little as no block
        without = loss_of(what)
    assert [one.loss for one in found] == pytest.approx([whole, without, without, whole, without], rel=1e-5)
    assert found[1].parameters < found[0].parameters
    table = shown(found)
    assert all(name in "".join(table.split()) for name in ("original", "dropped", "linearized", "fused", "distilled"))
    assert f"{found[0].tokens} tokens, windows of {CONTEXT}" in table
    assert f"{whole:.4f}" in table
    assert f"{without:.4f}" in table


@pytest.mark.slow
def test_each_model_is_let_go_before_the_next_is_loaded(tmp_path, text, monkeypatch):
    loaded = []

    def load(*args, **kwargs):
        assert all(reference() is None for reference in loaded)
        found = load_pretrained(*args, **kwargs)
        loaded.append(weakref.ref(found.model))
        return found

    monkeypatch.setattr("linscore.jobs.evaluate.load_pretrained", load)
    name = saved(tmp_path / "model", model())
    assert len(run_evaluate([name, name, name], text=text, device="cpu")) == len(loaded) == 3


def test_without_text_and_tasks_the_text_that_ships_with_linscore_is_predicted():
    [found] = run_evaluate(["embedded"], tokens=100, window=50, device="cpu")
    assert (found.tokens, found.window, found.stride) == (100, 50, 25)
    assert "ship with linscore" in found.text
    assert found.bits_per_byte < 4  # random guesses of 2,048 tokens would need more


@pytest.mark.slow
def test_tasks_alone_leave_the_text_out(tmp_path, boolq):
    pytest.importorskip("lm_eval")
    name = saved(tmp_path / "model", model())
    [found] = run_evaluate([name], tasks=" boolq", task_data=[boolq], limit=2, device="cpu")
    assert (found.loss, found.text, found.tokens) == (None, None, None)
    assert found.tasks["boolq"].samples == 2
    assert found.tasks["boolq"].value in (0, 1)
    table = shown([found])
    assert "boolq" in table
    assert "perplexity" not in table


@pytest.mark.slow
def test_a_suite_has_an_average_and_what_is_retained_of_the_uncut_model(tmp_path, boolq, monkeypatch):
    pytest.importorskip("lm_eval")
    suite = Suite((SuiteTask("boolq", shots=1),), headline=("boolq",))
    monkeypatch.setitem(SUITES, "nbl", suite)
    monkeypatch.setattr("linscore.jobs.evaluate.run_tasks", lambda model, *_, **__: answers[len(model.model.layers)])
    answers = {
        depth: {"boolq": TaskResult("acc", acc, None, 3, {"acc": acc})}
        for depth, acc in ((DEPTH, 0.8), (DEPTH - 1, 0.6))
    }
    what = model()
    names = [saved(tmp_path / "whole", what), saved(tmp_path / "cut", drop(what, [1]), record("drop"))]
    found = run_evaluate(names, suite="nbl", task_data=[boolq], device="cpu")
    assert [one.average for one in found] == [0.8, 0.6]
    assert [one.retained for one in found] == pytest.approx([100, 75])
    assert found[0].text is None
    assert all(words in shown(found) for words in ("average", "retained", "75.00"))
    assert json.loads(to_json(found))["evaluations"][1]["retained"] == pytest.approx(75)
    assert run_evaluate(names[1:], suite="nbl", task_data=[boolq], device="cpu")[0].retained is None
    [named] = run_evaluate(names[:1], tasks="nbl, boolq", task_data=[boolq], device="cpu")
    assert (named.average, named.retained) == (0.8, 100)


def test_a_text_and_tasks_give_both(tmp_path, text, boolq):
    pytest.importorskip("lm_eval")
    name = saved(tmp_path / "model", model())
    [found] = run_evaluate([name], text=text, tasks="boolq", task_data=[boolq], device="cpu")
    assert found.loss is not None
    assert list(found.tasks) == ["boolq"]


def test_json_holds_every_figure_and_nothing_that_is_no_number():
    result = TaskResult("acc", 0.5, 0.1, 20, {"acc": 0.5, "acc_stderr": 0.1, "acc_norm": math.nan})
    one = Evaluation(
        model="m",
        form="fused",
        parameters=7,
        weights_mib=1.5,
        loss=800.0,
        perplexity=math.inf,
        tasks={"arc_easy": result},
    )
    data = json.loads(to_json([one]), parse_constant=lambda word: pytest.fail(word))
    [found] = data["evaluations"]
    assert (found["form"], found["parameters"], found["loss"], found["perplexity"]) == ("fused", 7, 800.0, None)
    assert found["tasks"]["arc_easy"]["metrics"] == {"acc": 0.5, "acc_stderr": 0.1, "acc_norm": None}
    assert "torch" in data["versions"]


def test_a_table_shows_dashes_where_one_model_has_no_figure():
    full = Evaluation(
        model="a",
        form="original",
        parameters=1234,
        weights_mib=1.0,
        peak_mib=2.5,
        tasks={"cb": TaskResult("acc", 0.25, None, 4, {})},
    )
    table = shown([full, Evaluation(model="b", form="dropped", parameters=7, weights_mib=0.5)])
    first, second = (next(line for line in table.splitlines() if f"│ {name} " in line) for name in "ab")
    assert [cell.strip() for cell in first.strip("│ ").split("│")] == ["a", "original", "1,234", "1.0", "2.5", "0.2500"]
    assert [cell.strip() for cell in second.strip("│ ").split("│")] == ["b", "dropped", "7", "0.5", "–", "–"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text": "a", "dataset": "b"}, "both given"),
        ({"text": "not/there"}, "does not exist"),
        ({"text": "-"}, "only once"),
        ({"tokens": 0}, "`tokens` is 0"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"window": 0}, "`window` is 0"),
        ({"stride": 0}, "`stride` is 0"),
        ({"tasks": "boolq", "limit": -1}, "`limit` is -1"),
        ({"limit": 3}, "`limit` belongs to tasks"),
        ({"task_data": ["boolq=x"], "include_path": "x"}, "`task_data`, `include_path` belongs to tasks"),
        ({"tasks": "boolq", "window": 3, "stride": 2}, "`window`, `stride` belongs to a text"),
        ({"tasks": ","}, "`tasks` is empty"),
        ({"suite": "nbl", "tasks": "boolq"}, "name the suite among the tasks, `tasks=nbl,boolq`"),
        ({"suite": "nlb"}, "`suite` is 'nlb': choose replaceme, linearpatch, nbl, paper, pruning, modern"),
        ({"suite": "nbl", "stride": 2}, "`stride` belongs to a text"),
        ({"tasks": "boolq", "task_data": ["boolq"]}, "no.* NAME=FILE"),
    ],
)
def test_bad_options_are_refused_before_anything_is_loaded(monkeypatch, options, words):
    monkeypatch.setattr("linscore.jobs.evaluate.load_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(LinscoreError, match=words) as caught:
        run_evaluate(["embedded", "embedded"], **options)
    assert "\n" not in str(caught.value)


def test_windows_that_the_model_cannot_take_are_refused(tmp_path, text):
    name = saved(tmp_path / "model", model())
    with pytest.raises(LinscoreError, match=r"`window=49` is longer than the context of .*, 48 tokens"):
        run_evaluate([name], text=text, device="cpu", window=CONTEXT + 1)
    with pytest.raises(LinscoreError, match="`stride=25` is more than `window=24`"):
        run_evaluate([name], text=text, device="cpu", window=24, stride=25)


def test_a_folder_without_a_model_and_a_damaged_record_are_refused(tmp_path, text):
    with pytest.raises(LinscoreError, match="no causal language model"):
        run_evaluate([str(tmp_path)], text=text)
    name = saved(tmp_path / "model", model())
    (tmp_path / "model" / "linscore.json").write_text("{")
    with pytest.raises(LinscoreError, match="damaged"):
        run_evaluate([name], text=text)
