"""Code that a checkpoint brings runs where the user says so, and nowhere else; nothing asks on standard input."""

import ast
import io
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from own_code import FORMER, change, with_own_code, with_own_tokenizer

import linscore
from linscore import LinscoreError
from linscore.models.load import load_tokenizer, load_with_head, read_context
from linscore.models.pretrained import UntrustedError
from linscore.pretraining.recipe import Recipe
from linscore.pretraining.text import prepare

ROOT = Path(__file__).parents[2]
DOORS = {"linscore/models/pretrained.py", "linscore/models/linear_model.py"}  # the second stands alone in checkpoints
SAYS = r"brings code of its own, which does not run unasked.*`trust_remote_code`"
pytestmark = pytest.mark.usefixtures("one_thread", "own_module_cache")


class Untouched(io.StringIO):
    """Standard input that says yes, and keeps in mind that it was asked: transformers passes over an error here."""

    asked = False

    def readline(self, *_):
        self.asked = True
        return "y"

    read = __next__ = readline


@pytest.fixture(autouse=True)
def standard_input(monkeypatch):
    stdin = Untouched()
    monkeypatch.setattr(sys, "stdin", stdin)
    yield
    assert not stdin.asked


@pytest.mark.parametrize(
    "read", [linscore.load, linscore.load_pretrained, read_context, lambda f: load_with_head(f, 2)]
)
def test_a_model_of_its_own_class_is_refused(read, tmp_path):
    mark = with_own_code(tmp_path / "model")
    with pytest.raises(LinscoreError, match=SAYS) as error:
        read(str(tmp_path / "model"))
    assert "\n" not in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["model", "linear"])
@pytest.mark.parametrize("read", [linscore.load_pretrained, load_tokenizer])
def test_a_tokenizer_of_its_own_class_is_not_run(read, kind, tmp_path):
    """transformers falls back on its own class, or refuses; which of them is its choice."""
    mark = with_own_tokenizer(tmp_path / "model", kind)
    with suppress(UntrustedError):
        read(str(tmp_path / "model"))
    assert not mark.exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_kernel_of_the_hub_is_code_too(key, tmp_path):
    shutil.copytree(FORMER / "model", tmp_path / "model")
    for named in ("somebody/kernel", {"": "somebody/kernel@main"}):
        change(tmp_path / "model" / "config.json", **{key: named})
        with pytest.raises(LinscoreError, match=SAYS):
            linscore.load(tmp_path / "model")


def test_code_that_is_trusted_runs_and_a_line_says_so(tmp_path, capsys):
    marks = with_own_code(tmp_path / "model"), with_own_tokenizer(tmp_path / "words")
    model = linscore.load(tmp_path / "model", trust_remote_code=True)
    assert type(model).__name__ == "OwnModel"
    assert capsys.readouterr().err.count(f"code that {tmp_path / 'model'} brings may run") == 1
    tokenizer = load_tokenizer(str(tmp_path / "words"), trust_remote_code=True)
    assert type(tokenizer).__name__ == "OwnTokenizer"
    assert all(mark.exists() for mark in marks)
    former = linscore.load(FORMER / "model").state_dict()
    assert all(torch.equal(value, former[name]) for name, value in model.state_dict().items())


def arguments(folder: Path) -> dict[str, list[object]]:
    """Every command that loads a model, such that its model is the first thing that it cannot use."""
    model, text = folder / "model", FORMER / "text.txt"
    labelled = ["--data", FORMER.parent / "boolq.jsonl", "--text-field", "passage", "--label-field", "answer"]
    return {
        "score": [model, "--text", text, "--out", folder / "o"],
        "rank": [folder / "score", "--by", "perplexity", "--text", text],
        "prune": [model, "--drop", "1,", "--out", folder / "o"],
        "linearize": [model, "--replace", "1,", "--text", text, "--out", folder / "o"],
        "fuse": [model, "--drop", "1,", "--text", text, "--out", folder / "o"],
        "distil": [model, "--text", text, "--out", folder / "o"],
        "evaluate": [model, "--text", text],
        "dynamics": [model, "--text", text, "--out", folder / "o"],
        "finetune-delta": [model, *labelled],
        "probe": [model, *labelled],
    }


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """What the commands are given, and the file that is there once code of the model has run."""
    folder = tmp_path_factory.mktemp("given")
    mark = with_own_code(folder / "model")
    shutil.copy(FORMER / "linear" / "linscore.json", folder / "model")
    (folder / "score").mkdir()
    shutil.copy(FORMER / "score" / "report.json", folder / "score")
    change(folder / "score" / "report.json", model=str(folder / "model"))
    return arguments(folder), mark


@pytest.mark.slow
@pytest.mark.parametrize("command", arguments(Path()))
def test_no_command_runs_it_or_asks(run, given, command):
    called, mark = given
    shutil.rmtree(mark.parent / "o", ignore_errors=True)  # which `score` has made before it read the model
    code, _, error = run(command, *called[command])
    assert (code, error.count("\n")) == (2, 1), error
    assert "--trust-remote-code" in error
    assert not mark.exists()


def test_a_text_that_says_yes_answers_nothing(run, given, monkeypatch, tmp_path):
    called, mark = given
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    code, _, error = run("score", called["score"][0], "--text", "-", "--out", tmp_path / "out")
    assert (code, mark.exists()) == (2, False)
    assert "--trust-remote-code" in error


def test_a_recipe_names_no_tokenizer_with_code(tmp_path):
    mark = with_own_tokenizer(tmp_path / "words")
    words, text = str(tmp_path / "words"), str(FORMER / "text.txt")
    recipe = Recipe(model={}, steps=1, learning_rate=1.0, tokenizer=words, text=text)
    with pytest.raises(LinscoreError, match="needs code of its own: give one without"):
        prepare(recipe, tmp_path / "corpus", first=True)
    assert not mark.exists()


@pytest.mark.slow
def test_every_load_goes_through_one_door():
    """And `from_config`, which makes a class by what a configuration says, is told not to run what that names."""
    readers = {"from_pretrained", "get_config_dict", "from_config", "HFLM"}
    for path in [*ROOT.glob("linscore/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]:
        if str(path.relative_to(ROOT)) in DOORS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", None))
                given = {one.arg: ast.unparse(one.value) for one in node.keywords}
                where = f"{path}:{node.lineno}"
                assert name not in readers or given.get("trust_remote_code") == "False", where
