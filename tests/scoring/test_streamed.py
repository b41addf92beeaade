"""A score whose blocks came one at a time is that of the whole decoder, to the last bit."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from tiny_models import DEPTH, VOCABULARY, shared
from torch import nn

from benchmarks.studies.sweep_stream import PutAside
from linscore import Span, score
from linscore.decoder.find import find_decoder
from linscore.errors import Interrupted, LinscoreError
from linscore.files.run_folder import RunFolder
from linscore.options.place import KeepOptions
from linscore.options.score import ScoreOptions
from linscore.scoring.kept import KEPT, Kept, Settings, begin, keeping
from linscore.scoring.report import Report
from linscore.scoring.score import score_decoder
from linscore.scoring.streamed import Streamed

pytestmark = pytest.mark.usefixtures("one_thread")
PLENTY = 1 << 30
WITH_ALL = ScoreOptions(folds=3, skip_first=1, sub_blocks=True, spans=[Span(1, 2)], fuse=[Span(1, 1), Span(1, 2)])


def batches(count: int = 3) -> list[torch.Tensor]:
    return list(torch.randint(3, VOCABULARY, (count, 2, 24), generator=torch.Generator().manual_seed(5)))


def streamed(family: str, options: ScoreOptions, texts: list, *, room: int = PLENTY, **more) -> Report:
    decoder = find_decoder(copy.deepcopy(shared(family)))
    way = Streamed(decoder, PutAside(decoder.blocks), room=room, **more)
    return score_decoder(decoder, texts, options, streamed=way)


def assert_same(found: Report, expected: Report) -> None:
    timeless = {"run": "", "seconds": {}, "moments": {}}
    assert replace(found, **timeless) == replace(expected, **timeless)
    assert found.moments.keys() == expected.moments.keys()
    for name, moments in expected.moments.items():
        for kind in ("light", "heavy"):
            for one, other in zip(getattr(found.moments[name], kind), getattr(moments, kind), strict=True):
                assert (one is None) == (other is None)
                assert one is None or all(
                    torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
                )


@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon", "gemma2"])
def test_a_streamed_score_is_that_of_the_whole_decoder(family: str) -> None:
    options = ScoreOptions(folds=2, sub_blocks=True)
    assert_same(streamed(family, options, batches()), score(shared(family), batches(), options))


@pytest.mark.parametrize("room", [PLENTY, 1])  # in one group, and each batch by itself
def test_spans_fusions_and_padding_come_out_alike(room: int, tmp_path) -> None:
    mask = torch.ones(2, 24, dtype=torch.long)
    mask[1, :5] = 0
    texts = [*batches(), {"input_ids": batches()[0], "attention_mask": mask}]
    found = streamed("llama", WITH_ALL, texts, room=room, folder=tmp_path)
    assert_same(found, score(shared("llama"), texts, WITH_ALL))
    for moments in found.moments.values():
        assert str(moments.light[0].second.untyped_storage().filename).startswith(str(tmp_path))
    assert not list(tmp_path.iterdir())  # mapped files stay readable without their names


def test_blocks_behind_the_last_that_is_scored_see_only_what_the_loss_needs() -> None:
    options = ScoreOptions(blocks=[0, 1], spans=[Span(0, 1)])
    assert_same(streamed("qwen2", options, batches()), score(shared("qwen2"), batches(), options))


def test_a_row_that_is_lost_in_a_late_block_is_given_back_by_the_others() -> None:
    model = copy.deepcopy(shared("llama"))
    spoil(model)
    expected = score(model, batches())
    decoder = find_decoder(model)
    found = score_decoder(
        decoder, batches(), ScoreOptions(), streamed=Streamed(decoder, PutAside(decoder.blocks), room=PLENTY)
    )
    assert expected.nonfinite_rows == found.nonfinite_rows == 1
    assert found.tokens == expected.tokens
    for one, other in zip(found.blocks, expected.blocks, strict=True):  # taken off later: another order of sums
        assert one.linearity == pytest.approx(other.linearity, rel=1e-12)
        assert one.linearity_no_residual == pytest.approx(other.linearity_no_residual, rel=1e-12)


def spoil(model: nn.Module) -> None:
    """The last block gives NaN for one token, wherever it is run."""
    token = int(batches()[1][0, 7])
    seen: list[torch.Tensor] = []
    model.model.embed_tokens.register_forward_hook(lambda _m, args, _out: seen.append(args[0]))

    def hook(_block: nn.Module, _args: tuple, output: torch.Tensor) -> torch.Tensor:
        where = (
            (seen[-1] == token) & (seen[-1].cumsum(1) == batches()[1][:1].cumsum(1))
            if seen[-1].shape[1] == 24
            else None
        )
        return output if where is None else output.masked_fill(where[..., None], float("nan"))

    model.model.layers[DEPTH - 1].register_forward_hook(hook)


def test_progress_counts_every_token_once() -> None:
    counted: list[int] = []
    decoder = find_decoder(copy.deepcopy(shared("llama")))
    way = Streamed(decoder, PutAside(decoder.blocks), room=PLENTY)
    score_decoder(decoder, batches(), ScoreOptions(), streamed=way, progress=counted.append)
    assert sum(counted) == sum(batch.numel() for batch in batches())
    assert len(counted) == DEPTH * len(batches())


def stopped(after: int):
    """A save that ends the run once it was made so many times."""
    saves = []

    def save(kept: Kept, *given: object) -> None:
        SAVE(kept, *given)
        saves.append(given)
        if len(saves) == after:
            raise KeyboardInterrupt

    return save


SAVE = Kept.save


@pytest.mark.parametrize(
    ("after", "room", "block", "batches_before"),
    [
        (1, PLENTY, 1, 0),
        (2, PLENTY, 2, 0),
        (3, PLENTY, None, 4),
        (2, 13_000, 2, 0),
        (3, 13_000, None, 2),
        (4, 13_000, 1, 2),
    ],
)  # all batches in one group, or two in each; DEPTH is 3
def test_a_group_is_gone_on_with_between_two_blocks(after, room, block, batches_before, tmp_path, monkeypatch) -> None:
    mask = torch.ones(2, 24, dtype=torch.long)
    mask[0, -4:] = 0
    texts = [*batches(), {"input_ids": batches()[0], "attention_mask": mask}]
    model = copy.deepcopy(shared("llama"))
    spoil(model)
    expected = streamed_to(tmp_path / "whole", model, texts, room)
    monkeypatch.setattr(Kept, "save", stopped(after))
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        streamed_to(tmp_path / "run", model, texts, room)
    monkeypatch.setattr(Kept, "save", SAVE)
    position = json.loads((tmp_path / "run/scoring/position.json").read_text())
    assert (position["block"], position["batches"]) == (block, batches_before)
    found = streamed_to(tmp_path / "run", model, texts, room, resume=True)
    assert_same(found, expected)
    assert not (tmp_path / "run/scoring").exists()


def test_other_batches_than_those_that_were_under_way_are_refused(tmp_path, monkeypatch) -> None:
    model = copy.deepcopy(shared("llama"))
    monkeypatch.setattr(Kept, "save", stopped(1))
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        streamed_to(tmp_path, model, batches(), PLENTY)
    with pytest.raises(LinscoreError, match="are not those that"):
        streamed_to(tmp_path, model, [*batches()[:2], batches()[0]], PLENTY, resume=True)


def streamed_to(out, model: nn.Module, texts: list, room: int, *, resume: bool = False) -> Report:
    """A streamed score that is saved after every block."""
    decoder = find_decoder(model)
    settings = Settings.of("model", WITH_ALL)
    out.mkdir(exist_ok=True)
    with RunFolder(out / KEPT, settings, places=("model",)) as run:
        if resume:
            run.resume(Settings)
        else:
            begin(run)
        with PutAside(decoder.blocks).put_back() as weights, keeping(run, KeepOptions(save_minutes=1e-9)) as kept:
            way = Streamed(decoder, weights, room=room)
            return score_decoder(decoder, texts, WITH_ALL, streamed=way, kept=kept)
