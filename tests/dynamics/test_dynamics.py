"""A series of checkpoints, against float64 scores of their stacked states and what repeating a command must not do."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from oracles import heldout_scores, svd_scores
from rich.console import Console
from stacked import stacked_states
from tiny_models import DEPTH, tiny
from transformers import AutoTokenizer

import linscore.jobs.dynamics as job
from linscore.dynamics import folder as dynamics_folder
from linscore.dynamics.checkpoints import checkpoint_series
from linscore.dynamics.plot import plot_dynamics
from linscore.dynamics.series import Dynamics
from linscore.dynamics.table import dynamics_table
from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.errors import Interrupted, LinscoreError
from linscore.jobs.dynamics import run_dynamics
from linscore.models.load import load_pretrained
from linscore.scoring.report import Report
from linscore.text.source import Text

pytestmark = pytest.mark.usefixtures("one_thread")
FIGURES = ["linearity", "linearity_heldout", "linearity_no_residual", "linearity_no_residual_heldout", "cosine"]
SEQ_LEN = 16


def tokenizer(*more):
    found = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    found.add_tokens(list(more))
    return found


def saved(folder, seed=0, more=(), **changes):
    """A checkpoint: the tiny decoder, some way off its first weights."""
    model = tiny("llama", vocab_size=2048, **changes)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(0.05 * seed * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer(*more).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two checkpoints in the Trainer's layout, the later one first in the alphabet."""
    folder = tmp_path_factory.mktemp("run")
    saved(folder / "checkpoint-9", 1)
    saved(folder / "checkpoint-10", 2)
    (folder / "checkpoint-11").mkdir()  # not finished: without a configuration
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    numbers = np.random.default_rng(0).integers(0, 1000, 120)
    path.write_text("\n".join(f"x{n} = {n} + y[{n % 7}]" for n in numbers))
    return str(path)


@pytest.fixture(scope="module")
def done(runs, text, tmp_path_factory):
    out = tmp_path_factory.mktemp("done") / "series"
    return out, run_dynamics([str(runs)], text=text, seq_len=SEQ_LEN, device="cpu", out=str(out))


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """One picture is enough: it takes longer than scoring (`done` is made before this)."""
    monkeypatch.setattr(dynamics_folder, "plot_dynamics", lambda _dynamics, path: path.touch())


@pytest.fixture
def scored(monkeypatch):
    """The checkpoints that were loaded."""
    loads = []

    def load(name, **options):
        loads.append((name, options["revision"]))
        return load_pretrained(name, **options)

    monkeypatch.setattr(job, "load_pretrained", load)
    return loads


def content(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_figure_of_every_block_equals_the_stacked_states(runs, text, done):
    found = json.loads(done[1].to_json())
    assert found["steps"] == [9, 10]
    assert found["checkpoints"] == [str(runs / "checkpoint-9"), str(runs / "checkpoint-10")]
    for place, name in enumerate(found["checkpoints"]):
        loaded = load_pretrained(name, device="cpu")
        batches = list(Text(text).batches(loaded, seq_len=SEQ_LEN))
        ids = torch.cat([batch["input_ids"] for batch in batches])
        folds = torch.cat([batch["folds"] for batch in batches]).repeat_interleave(SEQ_LEN)
        assert found["tokens"] == ids.numel()
        for block, (x, y) in enumerate(stacked_states(loaded.model, ids)):
            x, y = x.double(), y.double()
            (score, score_apart), (heldout, heldout_apart) = svd_scores(x, y), heldout_scores(x, y, folds)
            cosine = torch.cosine_similarity(x, y).mean().item()
            expected = dict(zip(FIGURES, (score, heldout, score_apart, heldout_apart, cosine), strict=True))
            assert {name: found["blocks"][name][place][block] for name in FIGURES} == pytest.approx(expected, abs=1e-5)
    for name in FIGURES:
        np.testing.assert_allclose(found["mean"][name], np.mean(found["blocks"][name], axis=1))


def test_the_folder_holds_the_series_its_reports_and_a_picture(done):
    out, dynamics = done
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        "dynamics.json",
        "dynamics.png",
        "9/report.json",
        "10/report.json",
    }
    assert Dynamics.load(out / "dynamics.json") == dynamics
    report = Report.load(out / "10")
    assert [block.linearity_heldout for block in report.blocks] == dynamics.scored[1].blocks["linearity_heldout"]
    assert report.model == dynamics.scored[1].checkpoint.name
    assert (out / "dynamics.png").read_bytes().startswith(b"\x89PNG")


def test_a_repeated_command_scores_only_what_is_new(runs, text, scored, tmp_path):
    def again(*names):
        scored.clear()
        return run_dynamics(names, text=text, seq_len=SEQ_LEN, device="cpu", out=str(tmp_path / "out"))

    early, late = str(runs / "checkpoint-9"), str(runs / "checkpoint-10")
    first = again(late)
    assert scored == [(late, None)]
    report = (tmp_path / "out" / "10" / "report.json").read_bytes()
    both = again(early, late)
    assert scored == [(early, None)]
    assert [one.checkpoint.name for one in both.scored] == [early, late]
    assert both.scored[1] == first.scored[0]
    assert again(early, late) == both
    assert scored == []
    assert [one.checkpoint.name for one in again(early).scored] == [late, early]  # nothing is forgotten
    assert (tmp_path / "out" / "10" / "report.json").read_bytes() == report


def test_what_was_done_before_an_interruption_is_kept(runs, text, done, scored, tmp_path, monkeypatch):
    out, write = tmp_path / "out", dynamics_folder.whole_file

    def fails_at_the_second(path):
        if path.parent.name == "10":
            raise KeyboardInterrupt
        return write(path)

    options = {"text": text, "seq_len": SEQ_LEN, "device": "cpu", "out": str(out)}
    with monkeypatch.context() as broken:
        broken.setattr(dynamics_folder, "whole_file", fails_at_the_second)
        with pytest.raises(Interrupted, match="repeat the command"):
            run_dynamics([str(runs)], **options)
    assert [str(path.relative_to(out)) for path in out.rglob("report.json")] == ["9/report.json"]
    scored.clear()
    assert run_dynamics([str(runs)], **options).scored == done[1].scored
    assert scored == [(str(runs / "checkpoint-10"), None)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 8}, "with --seq-len 16, not --seq-len 8"),
        ({"tokens": 320}, "with no --tokens, not --tokens 320"),
        ({"text": None}, "with --text"),
        ({"dtype": "bfloat16"}, "--dtype auto, not --dtype bfloat16"),
    ],
)
def test_other_settings_are_refused(runs, text, done, changes, message):
    before = content(done[0])
    with pytest.raises(LinscoreError, match=message):
        run_dynamics([str(runs)], **{"text": text, "seq_len": SEQ_LEN, "device": "cpu", "out": str(done[0]), **changes})
    assert content(done[0]) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": DEPTH + 1}, f"step_30 has depth 4, .*checkpoint-9 {DEPTH}"),
        ({"hidden_size": 16}, "step_30 has width 16, .*checkpoint-9 32"),
        ({"more": ["zzz"]}, "step_30 has another vocabulary"),
    ],
)
def test_another_model_does_not_join_the_series(runs, text, tmp_path, changes, message):
    other = saved(tmp_path / "step_30", **changes)
    out = tmp_path / "out"
    with pytest.raises(LinscoreError, match=message):
        run_dynamics(
            [str(runs / "checkpoint-9"), other], text=text, seq_len=SEQ_LEN, tokens=64, device="cpu", out=str(out)
        )
    assert Dynamics.load(out / "dynamics.json").steps == [9]


def test_what_changed_since_is_noticed(runs, tmp_path, text):
    out, words = tmp_path / "out", tmp_path / "words.txt"
    words.write_text(open(text).read())  # noqa: SIM115
    weights = saved(tmp_path / "step_1", 3)
    options = {"text": str(words), "seq_len": SEQ_LEN, "device": "cpu", "out": str(out)}
    run_dynamics([weights], **options)
    before = content(out)
    words.write_text("z" + words.read_text()[1:])
    with pytest.raises(LinscoreError, match=r"was given other tokens than .*step_1"):
        run_dynamics([weights, str(runs / "checkpoint-9")], **options)
    os.utime(tmp_path / "step_1" / "model.safetensors", ns=(1, 1))
    with pytest.raises(LinscoreError, match=r"weights of .*step_1 changed since"):
        run_dynamics([weights], **options)
    saved(tmp_path / "other" / "step_1")
    with pytest.raises(LinscoreError, match=r"step 1 of the series in .* is .*step_1, not .*other"):
        run_dynamics([str(tmp_path / "other")], **options)
    assert content(out) == before


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ({"notes.txt": "mine"}, r"holds notes.txt but no dynamics.json"),
        ({"dynamics.json": "{}"}, r"dynamics.json is damaged"),
    ],
)
def test_a_foreign_folder_is_left_alone(runs, text, tmp_path, there, message):
    for name, words in there.items():
        (tmp_path / name).write_text(words)
    before = content(tmp_path)
    with pytest.raises(LinscoreError, match=message):
        run_dynamics([str(runs)], text=text, out=str(tmp_path))
    assert content(tmp_path) == before


def test_a_folder_in_the_place_of_a_report_is_left_alone(runs, text, tmp_path):
    options = {"text": text, "seq_len": SEQ_LEN, "tokens": 64, "device": "cpu", "out": str(tmp_path)}
    run_dynamics([str(runs / "checkpoint-9")], **options)
    (tmp_path / "10").mkdir()
    (tmp_path / "10" / "report.json").write_text("mine")
    with pytest.raises(LinscoreError, match=r"10 exists, but dynamics\.json does not list it"):
        run_dynamics([str(runs)], **options)
    assert (tmp_path / "10" / "report.json").read_text() == "mine"


def test_revisions_of_one_name(text, monkeypatch, tmp_path, runs):
    asked = []

    def load(name, *, revision, **options):
        asked.append((name, revision))
        return load_pretrained(str(runs / "checkpoint-9"), **options)

    monkeypatch.setattr(job, "load_pretrained", load)
    found = run_dynamics(
        ["someone/model"],
        revisions="step2-tokens1B, step10-tokens5B",
        text=text,
        tokens=64,
        seq_len=SEQ_LEN,
        device="cpu",
        out=str(tmp_path),
    )
    assert asked == [("someone/model", "step2-tokens1B"), ("someone/model", "step10-tokens5B")]
    assert found.steps == [2, 10]
    assert Report.load(tmp_path / "10").model == "someone/model@step10-tokens5B"


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["a/checkpoint-500", "a/checkpoint-1000/"], [500, 1000]),
        (["step_2000", "STEP1000"], [2000, 1000]),
        (["base", "ckpt_7", "iter_0000012"], [0, 7, 12]),
        (["pythia-70m", "pythia-160m"], [0, 1]),
        (["run-7/global_step3"], [3]),
    ],
)
def test_steps_come_from_names_or_places(names, steps):
    assert [one.step for one in checkpoint_series(names)] == steps
    assert [one.name for one in checkpoint_series(names)] == names


@pytest.mark.parametrize(
    ("names", "revisions", "message"),
    [
        (["a/step1", "b/step1"], None, "would be steps 1, 1"),
        (["step500", "final"], None, "would be steps 500, 1"),
        ([], None, "there is no checkpoint"),
        (["a", "b"], "main", "--revisions belongs to one Hub name, not to a b"),
        (["embedded"], "main", "--revisions belongs to one Hub name"),
        (["a/b"], " ,", "--revisions is empty"),
    ],
)
def test_series_that_make_no_axis(names, revisions, message):
    with pytest.raises(LinscoreError, match=message):
        checkpoint_series(names, revisions)


def test_standard_input_cannot_be_read_twice(runs, tmp_path):
    with pytest.raises(LinscoreError, match="--text - can be read only once"):
        run_dynamics([str(runs)], text="-", out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_table_has_a_row_per_checkpoint_and_the_doubts(done):
    console = Console(width=500, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(dynamics_table(done[1]))
    shown = console.export_text()
    heldout = np.mean(done[1].scored[0].blocks["linearity_heldout"])
    [row] = [line for line in shown.splitlines() if "checkpoint-9" in line]
    assert f"{heldout:.4f}" in row
    assert shown.count("checkpoint-10") == 1
    assert done[1].scored[0].warnings == done[1].scored[1].warnings  # few tokens for 32 features in both
    assert all(shown.count(message[:40]) == 1 for message in done[1].scored[0].warnings)


@pytest.fixture
def drawn(monkeypatch):
    """Figures in place of files."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    return figures


def test_the_picture_shows_mean_and_blocks_against_the_step(done, drawn):
    plot_dynamics(done[1], "nowhere.png")
    found = json.loads(done[1].to_json())["blocks"]
    for panel, name in zip(drawn[0].axes[:2], ("linearity_heldout", "linearity_no_residual_heldout"), strict=True):
        *blocks, mean = panel.get_lines()
        assert list(mean.get_xdata()) == [9, 10]
        np.testing.assert_allclose(mean.get_ydata(), np.mean(found[name], axis=1))
        np.testing.assert_allclose([line.get_ydata() for line in blocks], np.transpose(found[name]))


@pytest.mark.parametrize(
    ("steps", "scale"), [([0, 1, 10, 100, 1000], "symlog"), ([0, 500, 1000, 1500], "linear"), ([7], "linear")]
)
def test_steps_that_multiply_have_a_logarithmic_axis(done, drawn, steps, scale):
    one = done[1].scored[0]
    series = [replace(one, checkpoint=replace(one.checkpoint, step=step)) for step in steps]
    plot_dynamics(replace(done[1], scored=series), "nowhere.png")
    assert drawn[0].axes[0].get_xscale() == scale
