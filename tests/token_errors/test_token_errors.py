"""Errors of single tokens against maps that NumPy fits, and the figures that are kept of them."""

import json

import numpy as np
import pytest
import torch
from scipy import stats
from span_moments import observe, tokens
from tiny_models import tiny

from linscore import LinscoreError
from linscore.decoder import run as running
from linscore.decoder.find import find_decoder
from linscore.errors import LinscoreWarning
from linscore.options.score import ScoreOptions
from linscore.token_errors import types
from linscore.token_errors.collect import token_errors
from linscore.token_errors.result import TokenErrors
from linscore.token_errors.table import token_table
from linscore.token_errors.tally import Tally

SEQUENCES, LENGTH = 40, 32


def decode(ids):
    return " ".join(map(str, ids))


@pytest.fixture(scope="module")
def measured():
    model, ids = tiny("llama"), tokens(SEQUENCES, LENGTH)
    folds = torch.arange(SEQUENCES) % 2
    batches = [{"input_ids": part, "folds": fold} for part, fold in zip(ids.split(16), folds.split(16), strict=True)]
    options = ScoreOptions(folds=2, precision="exact")
    found = token_errors(find_decoder(model), lambda: batches, decode, options, name="tiny", text="random ids")
    states = [h.double().numpy() for h in observe(model, ids)["h"]]
    return found, states, ids, folds.repeat_interleave(LENGTH).numpy()


def held_out(x, delta, folds):
    """Squared errors of every row under the affine map of the other fold, by least squares."""
    errors = np.empty(len(x))
    for fold in (0, 1):
        other = folds != fold
        design = np.column_stack((x[other], np.ones(other.sum())))
        weights = np.linalg.lstsq(design, delta[other], rcond=None)[0]
        missed = delta[~other] - np.column_stack((x[~other], np.ones((~other).sum()))) @ weights
        errors[~other] = (missed**2).sum(1)
    return errors


def test_errors_are_those_of_maps_that_have_not_seen_the_token(measured):
    found, states, ids, folds = measured
    for block in found.blocks:
        x, delta = states[block.index], states[block.index + 1] - states[block.index]
        errors = held_out(x, delta, folds)
        total = ((delta - delta.mean(0)) ** 2).sum()
        shares = errors * len(x) / total
        assert block.rss == pytest.approx(errors.sum(), rel=1e-5)
        assert block.unexplained == pytest.approx(shares.mean(), rel=1e-5)
        assert found.sample.shares[block.index] == pytest.approx(shares[:512].tolist(), rel=1e-4)
        order = np.argsort(-shares)[:20]
        assert [one.share for one in block.worst] == pytest.approx(shares[order].tolist(), rel=1e-4)
        places = [(one.sequence, one.position) for one in block.worst]
        assert places[:5] == [divmod(int(at), LENGTH) for at in order[:5]]
        assert [one.token for one in block.worst][:5] == [str(int(ids.flatten()[at])) for at in order[:5]]
        for part, value in block.quantiles.items():
            assert value == pytest.approx(np.quantile(shares, float(part), method="inverted_cdf"), rel=0.013)
        assert sum(count for _, count in block.histogram) == len(x)


def test_a_batch_without_room_counts_every_token_once(measured):
    """Block 1 has memory for three sequences of 32 tokens, block 0 for seven: rows come again, in other parts."""
    whole, _, ids, _ = measured
    model, folds = tiny("llama"), torch.arange(SEQUENCES) % 2
    for index, most in ((0, 7), (1, 3)):

        def allocate(_block, args, most=most):
            if args[0].shape[1] == LENGTH and len(args[0]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        find_decoder(model).blocks[index].register_forward_pre_hook(allocate)
    batches = [{"input_ids": part, "folds": fold} for part, fold in zip(ids.split(16), folds.split(16), strict=True)]
    options = ScoreOptions(folds=2, precision="exact")
    with pytest.warns(LinscoreWarning, match="sequences at once need more memory"):
        found = token_errors(find_decoder(model), lambda: batches, decode, options)
    for block, expected in zip(found.blocks, whole.blocks, strict=True):
        for name in ("rss", "unexplained", "tokenwise", "explained_by_token", "linear"):
            assert getattr(block, name) == pytest.approx(getattr(expected, name), rel=1e-5)
        assert block.histogram == expected.histogram
        assert [one.position for one in block.worst] == [one.position for one in expected.worst]
    assert found.sample.tokens == whole.sample.tokens


@pytest.mark.parametrize("apart", [False, True])
def test_a_token_is_found_where_it_is_said_to_be(monkeypatch, apart):
    """Padded on the left, in a model that can be told so, and in one whose rows of one length are run apart."""
    if apart:
        monkeypatch.setattr(running, "padding_form", lambda _decoder, _mask: None)
    ids, mask = tokens(12, LENGTH), torch.ones(12, LENGTH, dtype=torch.long)
    for row in range(12):
        mask[row, : row * 5 % 9] = 0
    batches = [{"input_ids": ids[at : at + 6], "attention_mask": mask[at : at + 6]} for at in (0, 6)]
    found = token_errors(find_decoder(tiny("llama")), lambda: batches, decode, ScoreOptions(folds=2))
    for block in found.blocks:
        assert len(block.worst) == 20
        for one in block.worst:
            real = ids[one.sequence][mask[one.sequence] == 1].tolist()
            assert one.token == str(real[one.position])
            assert one.before == decode(real[max(0, one.position - 16) : one.position])
            assert one.after == decode(real[one.position + 1 : one.position + 7])


def test_what_the_first_state_tells_is_fitted_from_it(measured):
    found, states, _, folds = measured
    for block in found.blocks:
        delta = states[block.index + 1] - states[block.index]
        errors = held_out(states[0], delta, folds)
        spread = sum(((part - part.mean(0)) ** 2).sum() for part in (delta[folds == 0], delta[folds == 1]))
        assert block.tokenwise == pytest.approx(1 - errors.sum() / spread, abs=1e-6)
        assert block.linear is not None


def by_type(delta, ids, folds, named):
    """Squared errors of every row under the mean of its entry of the vocabulary in the other fold, row by row."""
    errors = np.empty(len(delta))
    for at in range(len(delta)):
        other = folds != folds[at]
        same = other & (ids == ids[at]) & np.isin(ids, named)
        mean = delta[same if same.any() else other].mean(0)
        errors[at] = ((delta[at] - mean) ** 2).sum()
    return errors


@pytest.mark.parametrize("named", [None, 20])
def test_what_the_entry_of_the_vocabulary_tells_is_its_mean_in_the_other_fold(measured, named, monkeypatch):
    _, states, ids, folds = measured
    flat = ids.flatten()
    if named is not None:
        monkeypatch.setattr(types, "NAMED", named)
    vocabulary = types.Vocabulary(int(flat.max()) + 5)
    assert list(vocabulary.watch([ids])) == [ids]
    rows = vocabulary.rows()
    kept = np.flatnonzero(rows.numpy() < (named or len(rows)))
    if named is not None:
        counts = np.bincount(flat.numpy())
        assert len(kept) == named
        assert counts[kept].min() >= np.delete(counts, kept).max()
    delta = states[2] - states[1]
    means = types.TypeMeans(rows, 2, delta.shape[1], torch.device("cpu"))
    for fold in (0, 1):
        for part in np.array_split(np.flatnonzero(folds == fold), 3):
            means.add(torch.from_numpy(delta[part]), flat[part], fold)
    means.add(torch.full((2, delta.shape[1]), torch.inf), flat[:2], 0)  # counts in no figure
    spread = sum(((part - part.mean(0)) ** 2).sum() for part in (delta[folds == 0], delta[folds == 1]))
    expected = 1 - by_type(delta, flat.numpy(), folds, kept).sum() / spread
    assert means.explained() == pytest.approx(expected, abs=1e-9)


def test_every_block_says_what_the_token_explains(measured):
    found, states, ids, folds = measured
    for block in found.blocks:
        delta = states[block.index + 1] - states[block.index]
        errors = by_type(delta, ids.flatten().numpy(), folds, np.unique(ids))
        spread = sum(((part - part.mean(0)) ** 2).sum() for part in (delta[folds == 0], delta[folds == 1]))
        assert block.explained_by_token == pytest.approx(1 - errors.sum() / spread, abs=1e-6)


def test_an_update_that_is_the_tokens_own_is_explained_and_one_of_a_single_fold_is_not():
    rows = torch.arange(4)
    table = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(12) % 4
    means = types.TypeMeans(rows, 2, 3, torch.device("cpu"))
    means.add(table[ids], ids, 0)
    assert means.explained() is None
    means.add(table[ids], ids, 1)
    assert means.explained() == pytest.approx(1.0, abs=1e-12)


def test_entries_of_the_vocabulary_have_the_mean_of_their_tokens(measured):
    found, states, ids, folds = measured
    block, flat = found.blocks[1], ids.flatten().numpy()
    delta = states[2] - states[1]
    shares = held_out(states[1], delta, folds) * len(delta) / ((delta - delta.mean(0)) ** 2).sum()
    means = {str(one): shares[flat == one].mean() for one in np.unique(flat) if (flat == one).sum() >= 10}
    named = {one.token: one.share for one in block.types}
    assert named == pytest.approx({token: means[token] for token in named}, rel=1e-4)
    assert min(named.values()) >= sorted(means.values())[-len(named)] * (1 - 1e-4)


def test_the_tail_index_is_that_of_a_pareto_law():
    tally = Tally(1)
    errors = torch.from_numpy(stats.pareto(3.0).rvs(200_000, random_state=0))
    for part in errors.square().split(50_000):
        tally.add(part, torch.zeros(len(part), dtype=torch.long))
    assert tally.tail_index == pytest.approx(3.0, rel=0.1)
    assert Tally(1).tail_index is None


def test_a_result_is_saved_and_read_again(measured, tmp_path):
    found = measured[0]
    path = found.save(tmp_path / "new")
    assert TokenErrors.load(tmp_path / "new") == TokenErrors.load(path)
    assert json.loads(path.read_text())["blocks"][0]["worst"][0]["token"] == found.blocks[0].worst[0].token
    assert token_table(found)
    path.write_text("{}")
    with pytest.raises(LinscoreError, match="is damaged or was not written by"):
        TokenErrors.load(path)


def test_ids_beyond_the_embedding_are_said_in_one_line():
    wrong = torch.full((2, 8), 10_000)
    with pytest.raises(LinscoreError, match="token id 10000"):
        token_errors(find_decoder(tiny("llama")), lambda: [wrong], decode, ScoreOptions(folds=2))


def test_nothing_held_out_is_said():
    with pytest.raises(LinscoreError, match="`folds=1` holds nothing out: give 2 or more"):
        token_errors(find_decoder(tiny("llama")), list, decode, ScoreOptions(folds=1))
