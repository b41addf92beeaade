"""The paper's figures and tables: their commands, what is run again, and claims held against results made up."""

import json
import subprocess

import pytest
from click.testing import CliRunner
from tiny_models import tiny
from transformers import AutoTokenizer

from benchmarks.paper import figure_1, figure_2, figure_4, figure_6, figure_8, figure_9, run, scores, table_1, table_3
from benchmarks.paper.claims import AGREES, DISAGREES, NOT_MEASURED, UNDECIDED, beyond, paired
from benchmarks.paper.cuts import LLAMA
from benchmarks.paper.setting import MODULES, Setting, held_out
from linscore.cli import cli
from linscore.embedded.shipped import EMBEDDED_MODEL


def test_there_is_a_script_for_every_figure_and_table():
    names = [part.name for part in run.PARTS]
    assert names == [f"Figure {number}" for number in range(1, 10)] + ["Table 1", "Table 2", "Table 3"]


@pytest.mark.parametrize("full", [False, True])
def test_every_command_has_the_options_that_it_is_given(tmp_path, full):
    at = Setting(tmp_path, full)
    (tmp_path / "training.txt").touch()  # the standard library need not be read for that
    seen = {}
    for part in run.PARTS:
        for one in part.runs(at):
            command = cli.commands[one.arguments[0]]
            command.make_context(one.arguments[0], [*one.arguments[1:], *one.tail(tmp_path)])
            assert seen.setdefault(one.result, one.arguments) == one.arguments  # a place has one result
    assert len(seen) > (60 if full else 25)


def test_without_a_machine_with_a_hub_the_full_list_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run", "--full", "--list", "--out", str(tmp_path)])
    monkeypatch.setattr("benchmarks.paper.setting.linscore", pytest.fail)
    run.main()
    shown = capsys.readouterr().out
    assert "linscore score meta-llama/Llama-2-13b-hf" in shown
    assert "--tasks paper" in shown
    assert "✓" not in shown


@pytest.mark.slow
def test_what_is_there_is_not_run_again_and_what_failed_is(tmp_path, monkeypatch):
    folders = [tmp_path / "first", tmp_path / "second"]
    tiny("llama", vocab_size=2048).save_pretrained(folders[0])
    AutoTokenizer.from_pretrained(EMBEDDED_MODEL).save_pretrained(folders[0])
    monkeypatch.setattr(scores, "SHIPPED", tuple(map(str, folders)))
    monkeypatch.setattr(scores, "TOKENS", "2000")
    called = []

    def linscore(*arguments):
        called.append(arguments[1])
        result = CliRunner().invoke(cli, [*arguments, "--seq-len", "32"])
        if result.exit_code:
            raise subprocess.CalledProcessError(result.exit_code, "linscore")

    monkeypatch.setattr("benchmarks.paper.setting.linscore", linscore)
    at = Setting(tmp_path / "out")
    assert [line.split()[2] for line in figure_1.PART.make(at)] == [str(folders[1])]
    assert {row[-1] for row in figure_1.PART.rows(at)} == {NOT_MEASURED}
    folders[0].rename(folders[1])
    assert figure_1.PART.make(at) == []
    assert figure_1.PART.make(at) == []
    assert called == [str(folders[0]), str(folders[1]), str(folders[1])]
    report = json.loads((at.out / "scores" / str(folders[0]).replace("/", "-") / "report.json").read_text())
    means = [block["linearity_heldout"] for block in report["blocks"]]
    [with_residual, without] = figure_1.PART.rows(at)
    assert f"{sum(means) / len(means):.3f}" in with_residual[2]
    assert {with_residual[-1], without[-1]} <= {AGREES, DISAGREES, UNDECIDED}


def test_a_difference_counts_beyond_two_standard_errors():
    assert paired([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1 / 3**0.5))
    assert [beyond(one, 0.5) for one in (1.1, 0.9, -0.9, -1.1)] == [AGREES, UNDECIDED, UNDECIDED, DISAGREES]
    assert beyond(0.1, 0.0) == AGREES


def test_claims_agree_where_the_figures_do():
    falling = [[(0.9, 0.5), (0.9, 0.95)], [(0.8, 0.45), (0.9, 0.96)], [(0.85, 0.5), (0.9, 0.95)]]
    assert [claim.seen(falling, False).verdict for claim in figure_2.PART.claims] == [AGREES, DISAGREES]
    ends = ([[0.6, 0.5], [0.62, 0.52]], [[0.7, 0.4], [0.71, 0.43]])
    lower = figure_4.lower(ends, False)
    assert "lower in 1 of 2 blocks" in lower.here
    assert lower.verdict == UNDECIDED
    costs = {"dropped": [[0.2, 0.3]], "replaced": [[0.1, 0.2]], "replaced, distilled": [[0.11, 0.19]]}
    seen = [claim.seen(costs, False) for claim in figure_6.PART.claims]
    assert [one.verdict for one in seen] == [AGREES, UNDECIDED]
    assert figure_6.SHIPPED[LLAMA] in seen[0].on
    answers = ((0.5, 0.05), {"dropped": [(0.2, 0.05)], "replaced": [(0.4, 0.05)], "replaced, distilled": [(0.4, 0.05)]})
    assert [claim.seen(answers, False).verdict for claim in figure_8.PART.claims] == [AGREES, UNDECIDED]
    assert figure_9.long_tails(([1.5, 2.0], [None, 4.0]), False).verdict == DISAGREES
    rises = {"a": (0.1, 0.01), "b": (0.001, 0.01)}
    assert [table_1.rises(one, False).verdict for one in (rises, {"a": rises["a"]})] == [UNDECIDED, AGREES]
    grades = {"650M none 0": (5.39, 0.1), "650M cosine 0.5": (6.08, 0.1)}
    assert table_3.graded(grades, True).verdict == AGREES
    nats = {"650M none 0": (2.39, 0.1), "650M cosine 0.5": (3.08, 0.1)}
    assert table_3.graded(nats, True).verdict == DISAGREES
    assert table_3.graded(grades, False).verdict == NOT_MEASURED


def test_texts_come_from_what_ships(tmp_path):
    at = Setting(tmp_path / "new")

    def rows(path):
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    assert {row["label"] for row in rows(at.labelled)} == {*MODULES}
    assert len(rows(at.labelled)) == 4 * 60
    for row in rows(at.pairs):
        assert sorted(filter(None, row["chosen"].splitlines())) == sorted(filter(None, row["rejected"].splitlines()))
    files = "\n".join(held_out(module) for module in MODULES)
    lines = [line for line in files.splitlines() if len(line.strip()) > 20]
    for row in rows(at.questions)[:20]:
        assert len(set(row["choices"]["label"])) == 4
        right = row["choices"]["text"]["ABCD".index(row["answerKey"])]
        before = row["question"].splitlines()
        assert any(lines[at : at + 8] == before and lines[at + 8].strip() == right for at in range(len(lines) - 8))
    assert len(rows(at.begun)) == 24
    assert all(row["text"] in files for row in rows(at.begun))
