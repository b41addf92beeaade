"""A score that is interrupted and gone on with is the unbroken one, to the last bit; what does not fit is refused."""

import json
import signal

import pytest
import torch
from span_moments import FUSE, SPANS, tokens
from tiny_models import tiny

import linscore
from linscore import LinscoreError
from linscore.errors import Interrupted, LinscoreWarning
from linscore.files.full_disk import FullDiskError
from linscore.scoring import kept, ways
from linscore.scoring.kept import KEPT
from linscore.text.ahead import Ahead

SPOILT = 63  # a token whose row turns NaN in the last block
LAST = ("run", "seconds", "moments", "moments_digest")  # what two runs differ in, and what is compared apart


@pytest.fixture
def model():
    """Tiny, and not finite for one token."""
    found = tiny("llama")
    embedding = found.get_input_embeddings()
    seen = []
    embedding.register_forward_hook(lambda _module, args, _out: seen.append(args[0] == SPOILT))

    def spoil(_block, _args, output):
        output[seen[-1]] = float("nan")
        return output

    linscore.find_decoder(found).blocks[-1].register_forward_hook(spoil)
    return found


def batches(folds=True):
    """Padded on the right, dealt to folds by hand or by their place in the stream, one row of them not finite."""
    ids = tokens(40, 12) % SPOILT
    ids[30, 5] = SPOILT
    mask = torch.ones_like(ids)
    mask[::3, 9:] = 0
    parts = {"input_ids": ids, "attention_mask": mask} | ({"folds": torch.arange(40) // 3 % 3} if folds else {})
    return [{name: part[at : at + 4] for name, part in parts.items()} for at in range(0, 40, 4)]


def interrupt(after):
    """A `progress` that ends the run after so many of its calls."""
    left = [after]

    def progress(_tokens):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    return progress


def bits(report):
    """Every sum of every moments, as bytes."""
    return {
        (name, kind, fold, field): value.numpy().tobytes()
        for name, one in report.moments.items()
        for kind, cells in (("light", one.light), ("heavy", one.heavy))
        for fold, cell in enumerate(cells)
        if cell is not None
        for field, value in vars(cell).items()
    }


def same(one, other):
    mine, theirs = ({key: value for key, value in vars(two).items() if key not in LAST} for two in (one, other))
    assert mine == theirs
    assert bits(one) == bits(other)


@pytest.mark.slow
@pytest.mark.parametrize("folds", [True, False])
def test_a_run_that_is_gone_on_with_is_the_unbroken_one(model, tmp_path, folds):
    options = {"folds": 3, "spans": SPANS, "fuse": FUSE, "sub_blocks": True, "skip_first": 1}
    whole = linscore.score(model, batches(folds), **options)
    assert whole.nonfinite_rows == 1
    for number, after in enumerate((3, 3 + 5)):  # batches, those that are read again too
        with pytest.raises(Interrupted, match=r"go on from .*position\.json with `resume`"):
            linscore.score(model, batches(folds), out=tmp_path, resume=number > 0, progress=interrupt(after), **options)
        assert [path.name for path in tmp_path.iterdir()] == [KEPT]
    again = linscore.score(model, batches(folds), out=tmp_path, resume=True, **options)
    same(again, whole)
    assert again.tokens_digest == whole.tokens_digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moments.safetensors", "report.json"]
    assert linscore.Report.load(tmp_path) == again


@pytest.mark.slow
def test_a_run_that_is_read_ahead_is_gone_on_with_at_the_same_batch(model, tmp_path):
    def ahead():
        return Ahead(torch.device("cuda")).read(iter(batches()))

    whole = linscore.score(model, batches(), folds=3)
    with pytest.raises(Interrupted):
        linscore.score(model, ahead(), out=tmp_path, folds=3, progress=interrupt(4))
    again = linscore.score(model, ahead(), out=tmp_path, resume=True, folds=3)
    same(again, whole)
    assert again.tokens_digest == whole.tokens_digest


def test_what_was_read_is_not_run_again(model, tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        linscore.score(model, batches(), out=tmp_path, folds=3, progress=interrupt(7))
    added = []
    add = linscore.Collector.add_parts
    monkeypatch.setattr(
        linscore.Collector, "add_parts", lambda self, parts, *_: added.append(parts) or add(self, parts)
    )
    linscore.score(model, batches(), out=tmp_path, resume=True, folds=3)
    assert len(added) == 3


def test_saves_come_as_often_as_they_are_asked_for_and_replace_one_another(model, tmp_path):
    found = []

    def look(_tokens):
        found.append(sorted(path.name for path in (tmp_path / KEPT).glob("[mp]*")))

    linscore.score(model, batches(), out=tmp_path, folds=3, keep=linscore.KeepOptions(save_tokens=90), progress=look)
    assert found == [
        [] if saved is None else [f"moments-{saved}.safetensors", "position.json"]
        for saved in (None, None, 3, 3, 3, 6, 6, 6, 9, 9)  # batches of 42 or 45 tokens
    ]


def test_a_run_of_other_options_weights_or_batches_is_not_gone_on_with(model, tmp_path):
    def score(given=None, **changes):
        linscore.score(model, given or batches(), **{"out": tmp_path, "folds": 3} | changes)

    with pytest.raises(LinscoreError, match="holds no run to go on with: begin one, without `resume`"):
        score(resume=True)
    with pytest.raises(Interrupted):
        score(progress=interrupt(4))
    before = {path: path.read_bytes() for path in (tmp_path / KEPT).iterdir()}
    other = batches()
    other[2]["attention_mask"][1, 3] = 0  # the ids are the same
    refused = {
        "exists: `resume` the run in it": {},
        "was begun with `folds=3`, not 2": {"folds": 2, "resume": True},
        "was begun with no `blocks`, not `blocks=": {"blocks": [0], "resume": True},
        "the first 4 batches are not those that": {"given": other, "resume": True},
        "the first 4 batches are not those": {"given": batches()[:3], "resume": True},
    }
    for message, changes in refused.items():
        with pytest.raises(LinscoreError, match=message):
            score(**changes)
    with torch.no_grad():
        for weight in linscore.find_decoder(model).blocks[1].parameters():
            weight *= 1.1
    with pytest.raises(LinscoreError, match="was begun with other weights of"):
        score(resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / KEPT).iterdir()} == before
    with pytest.raises(LinscoreError, match="give `out`"):
        score(out=None, resume=True)


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_save_holds_nobody_up(model, tmp_path):
    for resume in (False, True):
        (tmp_path / KEPT).mkdir()
        settings = kept.Settings.of("tiny", linscore.ScoreOptions(folds=3))
        (tmp_path / KEPT / "settings.json").write_text(json.dumps(vars(settings)))
        linscore.score(model, batches(), name="tiny", out=tmp_path, folds=3, resume=resume)
        assert not (tmp_path / KEPT).exists()


def test_a_save_without_room_keeps_what_was_saved_and_the_run_goes_on(model, tmp_path, monkeypatch):
    save, names, found = kept.save_moments, [], []

    def full(path, moments):
        names.append(path.name)
        save(path, moments)
        if len(names) == 2:
            raise FullDiskError(f"no room for {path}")

    def progress(_tokens):
        found.append(sorted(path.name for path in (tmp_path / KEPT).glob("[mp]*")))

    monkeypatch.setattr(kept, "save_moments", full)
    keep = linscore.KeepOptions(save_tokens=90)
    with pytest.warns(LinscoreWarning, match="no room for .*moments-6.safetensors; scoring goes on"):
        linscore.score(model, batches(), out=tmp_path, folds=3, keep=keep, progress=progress)
    assert names == [f"moments-{saved}.safetensors" for saved in (3, 6, 9)]
    assert found[7] == ["moments-3.safetensors", "position.json"]
    assert found[9] == ["moments-9.safetensors", "position.json"]


def test_a_signal_waits_for_a_batch_but_not_for_a_group_of_many(model, tmp_path, monkeypatch):
    """As blocks that come one at a time have it."""
    ran = []

    def signalled(_module, _args, _out):
        ran.append("batch")
        if len(ran) == 6:  # behind what is tried
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    model.get_input_embeddings().register_forward_hook(signalled)
    with pytest.raises(Interrupted, match="go on from"):
        linscore.score(model, batches(), out=tmp_path / "single", folds=3)
    saved = json.loads((tmp_path / "single" / KEPT / "position.json").read_text())["batches"]
    ran.clear()
    monkeypatch.setattr(ways.Whole, "groups", lambda _self, given, _first: iter([list(given)]))
    with pytest.raises(KeyboardInterrupt):
        linscore.score(model, batches(), out=tmp_path / "group", folds=3)
    signal.signal(signal.SIGINT, before)
    assert saved > 0
    assert len(ran) == 6
    assert not (tmp_path / "group").exists()
