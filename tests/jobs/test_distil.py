"""The distillation job end to end on a tiny decoder: what it saves, going on after an interruption, what it refuses."""

import json
import shutil
import sys
from io import StringIO

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from tiny_models import tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.errors import LinscoreError
from linscore.jobs import distil as distil_job
from linscore.jobs.distil import run_distil
from linscore.surgery.drop import drop
from linscore.surgery.record import Record, Replacement
from linscore.surgery.save import save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

PROJECTION = "model.layers.0.mlp.down_proj.weight"
FILES = {"config.json", "model.safetensors", "tokenizer.json", "linscore.json", "losses.jsonl", "losses.png"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tiny decoder `original`, `cut` without its block 1 (dropped), `fused` (block 0's projection), and a text."""
    folder = tmp_path_factory.mktemp("models")
    original, tokenizer = tiny("llama", vocab_size=2048), AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    original.save_pretrained(folder / "original")
    tokenizer.save_pretrained(folder / "original")
    for name, form, parameters in (("cut", "dropped", []), ("fused", "fused", [PROJECTION])):
        save(folder / name, drop(original, [1]), folder / "original", Replacement("1", form, 0, parameters))
    (folder / "text.txt").write_text("".join(f"def f{n}(x):\n    return x + {n}\n" for n in range(40)))
    return folder


@pytest.fixture
def place(models, tmp_path):
    """Copies of them, to be used up."""
    return shutil.copytree(models, tmp_path / "place")


def save(folder, model, original, replacement):
    record = Record("drop", str(original), [replacement], 3, 2, 1, 1, 1, 1)
    folder.mkdir()
    save_checkpoint(folder, model, AutoTokenizer.from_pretrained(EMBEDDED_MODEL), record)


def job(place, student="fused", out="out", **changes):
    given = {"text": str(place / "text.txt"), "steps": 6, "batch_size": 2, "seq_len": 16, "save_every": 2}
    return run_distil(str(place / student), out=str(place / out), device="cpu", **given | changes)


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()


def names(place):
    return {path.name for path in place.iterdir()}


def interrupt_at(monkeypatch, step):
    """Ctrl-C, as it comes while the progress of a step is shown."""

    def advance(_self, shown, _loss, _tokens):
        if shown == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(distil_job.StepProgress, "advance", advance)


def test_what_stands_for_the_block_is_trained_and_the_rest_stays(place):
    before = names(place)
    done = job(place, kl=0.5)
    assert names(place) == before | {"out"}
    assert {path.name for path in (place / "out").iterdir()} >= FILES
    old, new = weights(place / "fused"), weights(place / "out")
    assert [name for name in old if not torch.equal(old[name], new[name])] == [PROJECTION]
    curve = [json.loads(line) for line in (place / "out" / "losses.jsonl").read_text().splitlines()]
    assert curve[-1]["step"] == 6
    record = Record.load(place / "out")
    assert record == done.record
    assert record.replacements == Record.load(place / "fused").replacements
    distilled = record.distilled
    assert distilled["tokens"] == 6 * 2 * 16
    assert distilled["trained_parameters"] == old[PROJECTION].numel()
    assert (distilled["hidden"], distilled["kl"], distilled["lm"]) == (1, 0.5, 0)
    assert curve[0]["loss"] == pytest.approx(curve[0]["hidden"] + 0.5 * curve[0]["kl"])
    assert not distilled.keys() & {"first", "last"}
    assert distilled["text"] == str(place / "text.txt")
    assert (place / "out" / "losses.png").read_bytes().startswith(b"\x89PNG")


def hidden_and_kl(folder, teacher, ids):
    """Both losses on token ids `[n, B, T]`, batch for batch, in float64 NumPy from what transformers itself gives."""
    student, teacher = (AutoModelForCausalLM.from_pretrained(one) for one in (folder, teacher))
    rows = []
    for batch in ids:
        with torch.no_grad():
            ours, theirs = (model(input_ids=batch, output_hidden_states=True) for model in (student, teacher))
        h, target = (one.hidden_states[at].double().numpy().reshape(-1, 32) for one, at in ((ours, 1), (theirs, 2)))
        log_q, log_p = (log_softmax(one.logits.double().numpy(), axis=-1) for one in (ours, theirs))
        missed = np.sum((h - target) ** 2) / np.sum((target - target.mean(0)) ** 2)
        rows.append((missed, (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()))
    return np.mean(rows, axis=0)


def test_before_and_after_are_of_the_same_batches(place):
    """The first four of the text, packed as the tokenizer gives them."""
    distilled = job(place, steps=9, learning_rate=0.01, kl=0.5).record.distilled
    tokenizer = AutoTokenizer.from_pretrained(place / "original")
    ids = tokenizer((place / "text.txt").read_text(), add_special_tokens=False)["input_ids"]
    ids = torch.tensor(ids[: 4 * 2 * 16]).reshape(4, 2, 16)
    for when, folder in (("before", "fused"), ("after", "out")):
        hidden, kl = hidden_and_kl(place / folder, place / "original", ids)
        assert distilled[when]["hidden"] == pytest.approx(hidden, rel=1e-4)
        assert distilled[when]["kl"] == pytest.approx(kl, rel=1e-4)
        assert distilled[when]["loss"] == pytest.approx(hidden + 0.5 * kl, rel=1e-4)
        assert distilled[when]["lm"] is None


def test_training_brings_the_student_nearer_to_its_teacher(place):
    distilled = job(place, steps=60, learning_rate=0.01).record.distilled
    assert distilled["after"]["hidden"] < 0.9 * distilled["before"]["hidden"]


def test_a_slash_behind_the_folder_is_no_part_of_its_name(place, monkeypatch):
    given = {"text": str(place / "text.txt"), "steps": 6, "batch_size": 2, "seq_len": 16, "save_every": 2}
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            run_distil(f"{place}/fused", out=f"{place}/out/", device="cpu", **given)
    assert (place / "out.training" / "step_4").is_dir()
    assert not (place / "out").exists()
    run_distil(f"{place}/fused/", out=f"{place}/out/", device="cpu", resume=True, **given)
    assert names(place) >= {"out", "fused"}
    assert not (place / "out.training").exists()


def test_a_run_goes_on_from_another_working_directory(place, monkeypatch):
    given = {"steps": 6, "batch_size": 2, "seq_len": 16, "save_every": 2, "device": "cpu"}
    with monkeypatch.context() as patch:
        patch.chdir(place)
        interrupt_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            run_distil("fused", out="out", teacher="original", text="text.txt", **given)
    monkeypatch.chdir(place / "cut")
    teacher, text = "../original", "../text.txt"
    with pytest.raises(LinscoreError, match="begun with the student"):
        run_distil("../cut", out="../out", teacher=teacher, text=text, resume=True, train="all", **given)
    done = run_distil("../fused", out="../out", teacher=teacher, text=text, resume=True, **given)
    assert (done.record.distilled["text"], done.record.distilled["teacher"]) == (text, teacher)


@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"before": 1}', "", "no before", "wrong before"])
def test_damaged_settings_are_one_line_and_nothing_is_lost(place, monkeypatch, content):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            job(place)
    file = place / "out.training" / "settings.json"
    begun = json.loads(file.read_text())
    without = {key: value for key, value in begun.items() if key != "before"}
    broken = {"no before": without, "wrong before": begun | {"before": dict.fromkeys(begun["before"], "x")}}
    file.write_text(json.dumps(broken[content]) if content in broken else content)
    with pytest.raises(
        LinscoreError, match=r"settings.json is damaged: remove .*out.training and start again"
    ) as caught:
        job(place, resume=True)
    assert "\n" not in str(caught.value)
    assert (place / "out.training" / "step_2").is_dir()


def test_everything_of_a_model_without_blocks_is_trained_on_request(place):
    job(place, student="cut", train="all", lm=1, hidden=0, kl=1)
    old, new = weights(place / "cut"), weights(place / "out")
    assert not [name for name in old if torch.equal(old[name], new[name])]


@pytest.mark.parametrize("step", [5, 6])
def test_an_interrupted_run_goes_on_where_it_was(place, monkeypatch, step):
    job(place, out="whole", kl=1)
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            job(place, kl=1)
    assert not (place / "out").exists()
    assert (place / "out.training" / f"step_{step // 2 * 2}").is_dir()
    with pytest.raises(LinscoreError, match="--resume"):
        job(place, kl=1)
    with pytest.raises(LinscoreError, match=r"--learning-rate 0.001, not 0.1"):
        job(place, kl=1, resume=True, learning_rate=0.1)
    job(place, kl=1, resume=True)
    assert not (place / "out.training").exists()
    assert (place / "out" / "losses.jsonl").read_text() == (place / "whole" / "losses.jsonl").read_text()
    assert Record.load(place / "out").distilled == Record.load(place / "whole").distilled
    whole, resumed = weights(place / "whole"), weights(place / "out")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_an_interruption_before_the_first_checkpoint_leaves_nothing(place, monkeypatch):
    before = names(place)
    interrupt_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        job(place)
    assert names(place) == before


def test_a_save_that_fails_does_not_lose_the_training(place, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", full)
        with pytest.raises(OSError, match="No space"):
            job(place)
    assert not (place / "out").exists()
    monkeypatch.setattr("linscore.distillation.distil._Trainer.step", lambda *_, **__: pytest.fail("trained again"))
    job(place, resume=True)
    assert {path.name for path in (place / "out").iterdir()} >= FILES


def test_the_dtype_of_the_student_is_that_of_the_result(place):
    original = tiny("llama", vocab_size=2048)
    replacement = Replacement("1", "fused", 0, [PROJECTION])
    for dtype in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        save(place / name, drop(original, [1]).to(dtype), place / "original", replacement)
        job(place, student=name, out=f"{name}-out", steps=1)
        assert {value.dtype for value in weights(place / f"{name}-out").values()} == {dtype}


def test_standard_input_is_read_once_and_used_again(place, monkeypatch):
    job(place, out="file", seq_len=64, steps=8)
    monkeypatch.setattr(sys, "stdin", StringIO((place / "text.txt").read_text()))
    job(place, text="-", seq_len=64, steps=8)
    curves = [(place / name / "losses.jsonl").read_text() for name in ("file", "out")]
    assert curves[0] == curves[1]
    hidden = [json.loads(line)["hidden"] for line in curves[0].splitlines()]
    assert len(set(hidden)) == len(hidden) == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student": "original"}, "linscore.json"),
        ({"student": "cut"}, "--train all"),
        ({"train": "some"}, "--train 'some'"),
        ({"text": None}, "--text"),
        ({"dataset": "some"}, "--text and --dataset"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"seq_len": 1}, "--seq-len is 1"),
        ({"steps": 0}, "--steps is 0"),
        ({"save_every": 0}, "--save-every is 0"),
        ({"learning_rate": -1.0}, "--learning-rate is -1"),
        ({"learning_rate": 0.0}, "--learning-rate is 0"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan"),
        ({"hidden": 0, "kl": 0}, "no loss"),
        ({"kl": -1}, "weights of 0 or more"),
        ({"text": None}, "no text to train on"),
        ({"resume": True}, "no run to go on with"),
        ({"teacher": "embedded"}, "embedded has 10 blocks.* of 3"),
        ({"out": "cut"}, "exists"),
        ({"dtype": "float8"}, "float8"),
        ({"device": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_leaves_all_as_it_was(place, changes, words):
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    given = {"device": "cpu", "student": "fused", "out": "out", "text": str(place / "text.txt")} | changes
    given |= {"student": str(place / given["student"]), "out": str(place / given["out"])}
    with pytest.raises(LinscoreError, match=words) as caught:
        run_distil(**{"steps": 2} | given)
    assert "\n" not in str(caught.value)
    assert before == {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert not list(place.glob("*.training"))


@pytest.mark.parametrize("option", ["steps", "batch_size", "seq_len", "save_every", "learning_rate"])
def test_options_are_checked_before_a_model_is_loaded(place, monkeypatch, option):
    monkeypatch.setattr(distil_job, "load_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(LinscoreError, match=f"--{option.replace('_', '-')} is 0"):
        job(place, **{option: 0})


def test_another_width_is_refused(place):
    tiny("llama", vocab_size=2048, hidden_size=40).save_pretrained(place / "original")
    with pytest.raises(LinscoreError, match="width"):
        job(place, teacher=str(place / "original"))


def test_another_tokenizer_is_refused(place):
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(place / "original")
    with pytest.raises(LinscoreError, match="vocabularies"):
        job(place, teacher=str(place / "original"))


def test_the_embeddings_are_no_block_to_match(place):
    save(
        place / "first",
        drop(tiny("llama", vocab_size=2048), [0]),
        place / "original",
        Replacement("0", "dropped", None),
    )
    with pytest.raises(LinscoreError, match="no loss"):
        job(place, student="first", train="all", kl=0)
    done = job(place, student="first", train="all", kl=1)
    assert done.record.distilled["before"]["hidden"] is None
