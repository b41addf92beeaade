"""`linscore.watch`: what runs through a model in somebody else's loop is scored as `linscore.score` scores it."""

from __future__ import annotations

import threading
from dataclasses import fields
from functools import partial

import pytest
import torch
from tiny_models import FAMILIES, VOCABULARY, enable_checkpointing, shared, tiny
from torch.utils.data import DataLoader
from transformers import BatchEncoding

import linscore
from linscore import LinscoreError, Moments, Span
from linscore.statistics.cell import Cell

TEXTS, LENGTH = 12, 16
IDS = torch.randint(3, VOCABULARY, (TEXTS, LENGTH), generator=torch.Generator().manual_seed(0))


def batches(size: int = 4) -> list[torch.Tensor]:
    return list(IDS.split(size))


def padded(side: str) -> list[dict[str, torch.Tensor]]:
    """Batches whose second half is shorter by 5 tokens."""
    mask = torch.ones(4, LENGTH, dtype=torch.long)
    mask[2:, slice(5) if side == "left" else slice(-5, None)] = 0
    return [{"input_ids": torch.where(mask.bool(), ids, 0), "attention_mask": mask} for ids in batches()]


def same_bits(found: dict[str, Moments], expected: dict[str, Moments]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(upper(mine.total(), field.name), upper(expected[name].total(), field.name))
        for name, mine in found.items()
        for field in fields(Cell)
    )


def upper(cell: Cell, field: str) -> torch.Tensor:
    """Below the diagonal nothing is promised."""
    return getattr(cell, field).triu() if field == "second" else getattr(cell, field)


def watched(model, given, call=None, **options):
    with linscore.watch(model, **options) as seen, torch.no_grad():
        for batch in given:
            call(batch) if call else model(**batch) if isinstance(batch, dict) else model(batch)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_sums_are_those_of_score_to_the_last_bit_in_every_family(family):
    model = shared(family)
    expected = linscore.score(model, batches())
    found = watched(model, batches())
    assert same_bits(found.moments, expected.moments)


@pytest.mark.slow
def test_the_report_is_that_of_score():
    model = shared("llama")
    options = {"skip_first": 2, "spans": [Span(0, 1)], "folds": 3, "sub_blocks": True, "skip_tokens": [5]}
    expected = linscore.score(model, batches(), text="a text", **options)
    seen = watched(model, batches(), **options)
    report = seen.report(text="a text")
    for name in (
        "blocks",
        "spans",
        "tokens",
        "final_state",
        "curve",
        "tokens_digest",
        "weight_sample",
        "model",
        "text",
    ):
        assert getattr(report, name) == getattr(expected, name), name
    kinds = {one.kind for one in expected.warnings} - {"text_does_not_fit"}  # no loss is known here
    assert {one.kind for one in report.warnings} == kinds
    assert seen.tokens == expected.tokens


WAYS = {
    "dict": lambda model, batch: model(**batch),
    "BatchEncoding": lambda model, batch: model(**BatchEncoding(batch), labels=batch["input_ids"]),
    "by position": lambda model, batch: model(batch["input_ids"], attention_mask=batch["attention_mask"]),
    "without head": lambda model, batch: model.base_model(**batch),
    "DataLoader": lambda model, batch: [model(**one) for one in DataLoader(rows(batch), batch_size=2)],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "side", "way"),
    [("llama", "right", "dict"), ("gpt2", "right", "dict"), *(("llama", "left", way) for way in WAYS)],
)
def test_padding_is_left_out_by_the_mask_of_the_call(family, side, way):
    model = shared(family)
    seen = watched(model, padded(side), partial(WAYS[way], model))
    found, expected = seen.report(spectra=False), linscore.score(model, padded(side), spectra=False)
    assert seen.tokens == expected.tokens == 3 * (4 * LENGTH - 10)
    for one, other in zip(found.blocks, expected.blocks, strict=True):
        for name in ("linearity", "linearity_no_residual", "linearity_no_residual_heldout", "norm_x"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-6), name


def rows(batch: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    return [{name: part[n] for name, part in batch.items()} for n in range(len(batch["input_ids"]))]


@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_a_training_step_is_what_it_is_without_and_its_states_count_once(checkpointing):
    plain, model = tiny("llama"), tiny("llama")
    if checkpointing is not None:
        enable_checkpointing(model, checkpointing)
        model.train()  # without dropout
    with linscore.watch(model) as seen:
        loss = model(IDS, labels=IDS).loss
        loss.backward()
    plain(IDS, labels=IDS).loss.backward()
    assert loss.item() == plain(IDS, labels=IDS).loss.item()
    for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    assert seen.tokens == IDS.numel()
    assert same_bits(seen.moments, linscore.score(plain, [IDS]).moments)


def test_inference_mode_and_evaluation_mode_stay_what_they_were():
    model = tiny("gpt2").train()
    model.eval()
    with torch.inference_mode():
        expected = model(IDS).logits
        with linscore.watch(model) as seen:
            assert torch.equal(model(IDS).logits, expected)
    assert same_bits(seen.moments, linscore.score(model, [IDS]).moments)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_token_that_turns_out_not_finite_is_left_out_of_every_block():
    model = tiny("llama")
    model.model.layers[1].register_forward_hook(spoil)
    seen, expected = watched(model, batches(TEXTS)), linscore.score(model, batches(TEXTS))
    assert seen.report().blocks == expected.blocks
    assert {one.rows for one in expected.blocks} == {seen.tokens} == {IDS.numel() - expected.nonfinite_rows}
    assert seen.report().nonfinite_rows == expected.nonfinite_rows > 0


def spoil(_block, _args, output):
    """Two tokens of the last row, which no other token sees."""
    state = output[0] if isinstance(output, tuple) else output
    state[-1, -2:] = torch.nan


def test_a_pass_that_ends_in_an_error_counts_nowhere():
    model = tiny("llama")
    with linscore.watch(model) as seen, torch.no_grad():
        handle = model.model.layers[2].register_forward_hook(fail)
        with pytest.raises(MemoryError):
            model(IDS)
        handle.remove()
        model(IDS)
    assert same_bits(seen.moments, linscore.score(model, [IDS]).moments)


def fail(*_):
    raise MemoryError("full")


@pytest.mark.slow
def test_a_compiled_model_is_watched_as_it_was_written():
    model = tiny("llama")
    seen = watched(torch.compile(model, backend="eager"), batches())
    assert same_bits(seen.moments, linscore.score(model, batches()).moments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model(IDS, attention_mask=torch.ones(TEXTS, 1, LENGTH, LENGTH)), "attention_mask is"),
        (lambda model: model(inputs_embeds=torch.zeros(1, 4, 32)), "without `input_ids`"),
        (lambda model: model.generate(IDS, max_new_tokens=3, do_sample=False), "goes on from a cache"),
        (lambda model: linscore.score(model, [IDS]), "in use by another score"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(call, message):
    model = shared("llama")
    with linscore.watch(model), torch.no_grad(), pytest.raises(LinscoreError, match=message):
        call(model)
    assert same_bits(watched(model, [IDS]).moments, linscore.score(model, [IDS]).moments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"until_stable": 0.1}, "`until_stable` needs a run of the model"),
        ({"fuse": [Span(1, 1)]}, "`fuse` needs a run of the model"),
        ({"blocks": [9]}, "blocks .9. are not all there"),
    ],
)
def test_what_a_watch_cannot_do_is_refused_before_anything_runs(options, message):
    with pytest.raises(LinscoreError, match=message), linscore.watch(shared("llama"), **options):
        pass


def test_before_the_first_pass_there_is_nothing_to_report():
    with linscore.watch(shared("llama")) as seen, pytest.raises(LinscoreError, match="no states to report on yet"):
        seen.report()


def test_states_that_are_changed_in_place_between_two_blocks_are_refused():
    model = tiny("llama")
    with linscore.watch(model), torch.no_grad():
        model.model.layers[1].register_forward_pre_hook(double)
        with pytest.raises(LinscoreError, match="in place between two blocks"):
            model(IDS)


def double(_block, args):
    args[0].mul_(2)


def test_what_leaves_out_blocks_is_named():
    model = tiny("opt").train()
    model.model.decoder.layerdrop = 1.0
    with linscore.watch(model), pytest.raises(LinscoreError, match="has not run blocks"):
        model(IDS)


def test_another_thread_is_refused():
    model, raised = shared("llama"), []

    def run() -> None:
        try:
            model(IDS)
        except LinscoreError as error:
            raised.append(str(error))

    with linscore.watch(model):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert len(raised) == 1
    assert "watched in another thread" in raised[0]
