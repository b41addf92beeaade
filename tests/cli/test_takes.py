"""Options come from one declaration each, and errors of the library reach a terminal in the words of its options."""

import typing
from collections import Counter
from dataclasses import fields, is_dataclass
from importlib import import_module
from pkgutil import iter_modules

import click
import pytest
from click.testing import CliRunner

from linscore import options
from linscore.cli import COMMANDS, cli
from linscore.cli.takes import figures, in_options, takes
from linscore.errors import LinscoreError, above_zero, at_least, one_of
from linscore.options.cut import EvaluateOptions
from linscore.options.text import TextOptions
from linscore.pictures import file_of, picture

ROOMS = [import_module(f"linscore.options.{found.name}") for found in iter_modules(options.__path__)]
CLASSES = {kind for room in ROOMS for kind in vars(room).values() if is_dataclass(kind) and isinstance(kind, type)}
# What commands promised before options had one home: command → flags that people have in scripts.
PROMISED = {
    "score": "text dataset tokens seq-len batch-size dtype device trust-remote-code folds skip-first skip-special "
    "precision blocks sub-blocks for span-lengths out overwrite json until-stable save-minutes save-tokens resume "
    "placement scratch skip-shards html encoder sensitivity",
    "score-states": "model states raw-last folds skip-first precision device out overwrite json",
    "plan": "tokens seq-len batch-size devices placement scratch dtype device trust-remote-code folds precision "
    "sub-blocks blocks for span-lengths json encoder",
    "report": "html out json",
    "compare": "figure json",
    "rank": "drop by span format text dataset tokens trust-remote-code json",
    "prune": "drop moments by span sequential text dataset tokens seq-len out dtype device trust-remote-code json",
    "linearize": "replace moments by span sequential text dataset tokens seq-len rank diagonal mean ridge out dtype "
    "device trust-remote-code json",
    "fuse": "drop moments by span sequential text dataset tokens seq-len on auto ridge out dtype device "
    "trust-remote-code json",
    "compress": "params memory kv latency loss heal measure-tokens steps latency-of measured by moments text "
    "dataset tokens seq-len batch-size resume out dtype device trust-remote-code json",
    "evaluate": "text dataset tokens tasks suite task-data include-path window stride batch-size limit dtype device "
    "trust-remote-code json",
    "judge": "text dataset endpoint judge reference stories begin new-tokens temperature seed dtype device "
    "trust-remote-code json",
    "distil": "text dataset teacher train steps batch-size seq-len learning-rate hidden kl lm save-every resume out "
    "dtype device trust-remote-code json figures",
    "train": "config out text dataset regularizer weight steps seed resume device json figures",
    "finetune-delta": "data dataset text-field label-field task chosen-field rejected-field seeds epochs batch-size "
    "learning-rate longest score-text tokens device trust-remote-code out json",
    "dynamics": "revisions text dataset tokens seq-len batch-size out dtype device trust-remote-code json figures",
    "probe": "data dataset text-field label-field pool batch-size seed out dtype device trust-remote-code json figures",
    "lens": "text dataset tokens seq-len batch-size out dtype device trust-remote-code json",
    "tokens": "text dataset tokens seq-len batch-size folds skip-first precision skip-special blocks out dtype device "
    "trust-remote-code json",
    "bench": "width tokens dtype device tune tune-widths tune-paths tune-seconds tune-file json",
    "doctor": "json",
}
# Of the defaults only those that are not "none": (command, option) → value.
DEFAULTS = {
    ("score", "folds"): 2,
    ("score", "skip_first"): 0,
    ("score", "precision"): "fast",
    ("score", "span_lengths"): "2",
    ("score", "dtype"): "auto",
    ("rank", "span"): 1,
    ("prune", "span"): 1,
    ("fuse", "on"): "auto",
    ("distil", "train"): "replacements",
    ("distil", "steps"): 500,
    ("distil", "batch_size"): 8,
    ("distil", "hidden"): 1.0,
    ("distil", "kl"): 1.0,
    ("distil", "lm"): 0.0,
    ("distil", "save_every"): 100,
    ("distil", "dtype"): "float32",
    ("finetune-delta", "text_field"): "text",
    ("finetune-delta", "label_field"): "label",
    ("finetune-delta", "seeds"): 3,
    ("finetune-delta", "epochs"): 3,
    ("finetune-delta", "batch_size"): 16,
    ("finetune-delta", "tokens"): 100_000,
    ("finetune-delta", "task"): "classification",
    ("probe", "pool"): "last",
    ("probe", "seed"): 0,
}


@pytest.mark.parametrize("name", PROMISED)
def test_every_command_has_the_options_that_it_promised(name):
    flags = {flag for one in cli.commands[name].params if isinstance(one, click.Option) for flag in one.opts}
    assert "--json" in flags
    assert {"--debug", "--plain", *(f"--{word}" for word in PROMISED[name].split())} == {
        flag for flag in flags if flag.startswith("--")
    }


def test_every_command_is_listed():
    assert sorted(PROMISED) == sorted(cli.commands) == sorted(command.name for command in COMMANDS)


@pytest.mark.parametrize(("command", "option"), DEFAULTS)
def test_defaults_are_those_that_were_promised(command, option):
    (found,) = [one for one in cli.commands[command].params if one.name == option]
    assert found.default == DEFAULTS[command, option]


def test_pictures_have_the_format_that_is_asked_for(tmp_path):
    @click.command()
    @figures
    def command():
        with picture(tmp_path / file_of("curve"), 1, 2) as (_, [panel]):
            panel.plot([0, 1])

    for kind, begins in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        assert CliRunner().invoke(command, ["--figures", kind]).exit_code == 0
        assert (tmp_path / f"curve.{kind}").read_bytes().startswith(begins)
    assert CliRunner().invoke(command, ["--figures", "gif"]).exit_code == 2


def test_the_list_of_commands_says_whole_sentences(run):
    _, printed, _ = run("--help")
    assert "..." not in printed.partition("Commands:")[2]
    for command in cli.commands.values():
        assert " ".join(command.help.split("\n\n")[0].split()) in " ".join(printed.split())


def test_each_option_is_declared_once():
    """A name may stand in several classes only where it names different things there."""
    names = Counter(f.metadata["flag"] or f.name for kind in CLASSES for f in fields(kind) if f.metadata)
    twice = {name for name, count in names.items() if count > 1}
    assert twice == {"dataset", "steps"}  # of text or of labelled rows; of training or of a search


def test_a_command_takes_some_fields_with_the_defaults_of_an_instance():
    seen = []

    @click.command()
    @takes(TextOptions(batch_size=8), "text", only=("tokens", "batch_size"), changed={"tokens": "So many."})
    def command(text):
        seen.append(text)

    command.main(["--tokens", "5"], standalone_mode=False)
    assert seen == [TextOptions(tokens=5, batch_size=8)]
    assert "So many." in command.get_help(click.Context(command))
    with pytest.raises(click.NoSuchOption):
        command.main(["--text", "x"], standalone_mode=False)


def test_types_and_flags_follow_the_class():
    found = {one.name: one for one in cli.commands["evaluate"].params}
    assert found["task_data"].multiple
    assert found["window"].type is click.INT
    score = {one.name: one for one in cli.commands["score"].params}
    assert score["sub_blocks"].is_flag
    assert score["collect_for"].opts[0] == "--for"
    assert typing.get_type_hints(EvaluateOptions)["window"] == int | None


@pytest.mark.parametrize(
    ("command", "message", "said"),
    [
        ("score", "`seq_len` is 1: give 2 or more", "--seq-len is 1: give 2 or more"),
        ("score", "give `precision=exact`, or more", "give --precision exact, or more"),
        ("score", "`collect_for=all` is unknown", "--for all is unknown"),
        ("prune", "`blocks=2` asks for a ranking", "--drop 2 asks for a ranking"),
        ("linearize", "`blocks=2,` names block 2", "--replace 2, names block 2"),
        ("rank", "no `teacher` here, and `train=all`", "no teacher here, and train all"),
        ("score", "see `linscore doctor` for more", "see `linscore doctor` for more"),
    ],
)
def test_arguments_become_the_options_of_the_command(command, message, said):
    assert in_options(message, cli.commands[command]) == said


def test_a_mistake_is_one_line_in_options(run, tmp_path):
    code, out, err = run("score", "--seq-len", 1, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err == "linscore: --seq-len is 1: give 2 or more\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["score", "--out", ""], "--out is empty: give the name of a folder"),
        (["prune", "embedded", "--drop", "1", "--out", ""], "--out is empty: give the name of a folder"),
        (["score", "--folds", "100000000"], "--folds is 100000000: give 10,000 or less"),
        (["score", "--device", "meta"], "--device is meta: linscore computes on cpu and cuda, give one of them"),
        (["probe", "--data", ""], "--data is empty: give the name of a file, or leave it out"),
        (
            ["finetune-delta", "--data", "DATA", "--score-text", ""],
            "--score-text is empty: give the name of a file, or leave it out",
        ),
        (["train", "--config", "1M", "--steps", "0", "--out", "o"], "--steps is 0: give 1 or more"),
        (
            ["train", "--config", "1M", "--text", "-", "--out", "o"],
            "--text is -, which can be read only once: give a file",
        ),
        (
            ["prune", "embedded", "--drop", "1", "--dataset", "x", "--seq-len", "0", "--out", "o"],
            "--seq-len is 0: give 1 or more",
        ),
    ],
)
def test_the_option_that_was_given_is_the_one_that_is_named(run, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f'{{"text": "row {row}", "label": {row % 2}}}\n' for row in range(8)))
    assert run(*(str(data) if word == "DATA" else word for word in words)) == (2, "", f"linscore: {said}\n")


def test_checks_name_the_argument():
    for check, said in (
        (lambda: at_least("steps", 2.0, 1), "`steps` is 2.0: give a whole number"),
        (lambda: at_least("steps", 12_345, 1, 10_000), "`steps` is 12345: give 10,000 or less"),
        (lambda: at_least("steps", 0, 1), "`steps` is 0: give 1 or more"),
        (lambda: above_zero("learning_rate", float("nan")), "`learning_rate` is nan: give a number above 0"),
        (lambda: one_of("dtype", "int3", ("auto", "float32")), "`dtype` is 'int3': choose auto, float32"),
    ):
        with pytest.raises(LinscoreError) as raised:
            check()
        assert str(raised.value) == said
    at_least("steps", None, 1)
    at_least("steps", 1, 1)
