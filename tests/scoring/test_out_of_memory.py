"""Where there is no memory for a batch, fewer of its rows are run at once: no row is lost, and none counts twice."""

import pytest
import torch
from linscore_kernels import HEAVY
from span_moments import FUSE, SPANS, tokens
from tiny_models import tiny

import linscore
from benchmarks.studies.sweep_stream import PutAside
from linscore import LinscoreError
from linscore.decoder.states import BlockStates
from linscore.errors import LinscoreWarning
from linscore.options.score import ScoreOptions
from linscore.scoring.names import MomentsName
from linscore.scoring.parts import Part
from linscore.scoring.score import score_decoder
from linscore.scoring.settle import Positions
from linscore.scoring.span_states import Pair
from linscore.scoring.streamed import Streamed
from linscore.scoring.sweep import Sweep, of_every
from linscore.statistics.update import Update
from linscore.text.batch import Tokens

SPOILT = 63


def limited(most, block=1):
    """A tiny decoder whose block has memory for so many rows, and which is not finite for one token."""
    model, seen = tiny("llama"), []
    blocks = linscore.find_decoder(model).blocks
    model.get_input_embeddings().register_forward_hook(lambda _module, args, _out: seen.append(args[0] == SPOILT))

    def spoil(_block, _args, output):
        output[seen[-1]] = float("nan")
        return output

    def allocate(_block, args):
        if args[0].shape[1] == 12 and len(args[0]) > most:  # nothing that is only tried
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    blocks[-1].register_forward_hook(spoil)
    blocks[block].register_forward_pre_hook(allocate)
    return model


def batches():
    """Of 11 rows, padded on the right, in three folds; one row is not finite."""
    ids = tokens(33, 12) % SPOILT
    ids[20, 5] = SPOILT
    mask = torch.ones_like(ids)
    mask[::3, 9:] = 0
    parts = {"input_ids": ids, "attention_mask": mask, "folds": torch.arange(33) // 2 % 3}
    return [{name: part[at : at + 11] for name, part in parts.items()} for at in range(0, 33, 11)]


@pytest.mark.slow
@pytest.mark.parametrize(("most", "streamed"), [(6, False), (1, False), (6, True), (1, True)])
def test_a_batch_without_room_gives_the_scores_of_one_with_room(most, streamed):
    options = {"folds": 3, "spans": SPANS[:1], "fuse": FUSE[:1], "skip_first": 1, "precision": "exact"}
    whole = linscore.score(limited(99), batches(), **options)
    with pytest.warns(LinscoreWarning, match="sequences at once need more memory than there is") as said:
        found = (
            score_streamed(limited(most), options) if streamed else linscore.score(limited(most), batches(), **options)
        )
    assert len(said) == 1
    assert (found.tokens, found.nonfinite_rows) == (whole.tokens, whole.nonfinite_rows) == (33 * 11 - 11 * 3 - 1, 1)
    assert [one.rows for one in found.blocks] == [one.rows for one in whole.blocks]
    for name, one in whole.moments.items():
        mine, theirs = found.moments[name].total(), one.total()
        assert mine.n == theirs.n
        torch.testing.assert_close(mine.scalars[1:], theirs.scalars[1:], rtol=1e-6, atol=1e-6)  # 0 is about the pilot
    for one, other in zip([*found.blocks, *found.spans], [*whole.blocks, *whole.spans], strict=True):
        assert one.linearity_heldout == pytest.approx(other.linearity_heldout, abs=1e-7)
        assert one.linearity_no_residual == pytest.approx(other.linearity_no_residual, abs=1e-7)


def score_streamed(model, options):
    decoder = linscore.find_decoder(model)
    way = Streamed(decoder, PutAside(decoder.blocks), room=1 << 30)
    return score_decoder(decoder, batches(), ScoreOptions(**options), streamed=way)


def test_heavy_rows_of_both_halves_are_left_for_later():
    """More of them than are held: positions are marked, whichever half of the batch is settled first."""
    heavy, batch = torch.tensor([[1, 0, 0], [0, 1, 1]]).bool(), BlockStates(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2))
    part = Part(
        Tokens(heavy.long(), None, None), torch.zeros(2), heavy | True, {0: Positions(None, None)}, torch.arange(2)
    )

    def begin(_pair, positions, *, fold):  # noqa: ARG001
        status = heavy.flatten()[positions.positions].to(torch.uint8) * HEAVY
        return Update(status, torch.tensor([float((status == HEAVY).sum()), 0.0]), room=0)

    lost, left = [{}], [{}]
    pair = Pair(MomentsName.block(0), torch.zeros(3, 2), torch.zeros(3, 2))
    sweep = Sweep([part], {0: of_every(part.rows)}, lost, left, lambda *_: iter([pair]), begin)
    for first in range(2):
        sweep.take(0, first, 0, batch)
        sweep.settle()
    assert torch.equal(left[0]["block.0"], heavy)
    assert not lost[0]


def test_a_row_that_is_too_much_ends_the_run():
    with pytest.raises(torch.OutOfMemoryError), pytest.warns(LinscoreWarning):
        linscore.score(limited(0, block=0), batches(), folds=3)


def test_sums_are_not_half_taken(monkeypatch):
    def full(*_args, **_how):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(linscore.Moments, "begin", full)
    with pytest.raises(LinscoreError, match=r"no memory for the sums of block\.0: give a smaller `batch_size`"):
        linscore.score(tiny("llama"), [tokens()])
