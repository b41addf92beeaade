"""A score with gradients: what each unit is expected to cost, from the first tokens of a text."""

import dataclasses
import io

import pytest
import torch
from rich.console import Console
from tiny_models import tiny

import linscore
from linscore import LinscoreError, Report, load_moments, rank
from linscore.decoder.gradients import loss_gradients
from linscore.errors import LinscoreWarning
from linscore.scoring.expected import expected_loss, expected_losses
from linscore.scoring.table import score_table
from linscore.spans import Span, Unit
from linscore.statistics.maps import fit_block_map

IDS = torch.randint(3, 64, (24, 16), generator=torch.Generator().manual_seed(0))
TOKENS = 100  # of 15 a sequence that have a next one: seven sequences


@pytest.fixture(scope="module")
def report() -> Report:
    options = {"sub_blocks": True, "sensitivity": TOKENS, "spans": [Span(0, 1)], "precision": "exact"}
    return linscore.score(tiny("llama"), IDS.split(5), name="tiny", **options)


def observed(model, ids):
    """What attention, MLP and block 1 add on all tokens, and the gradients after its attention and after it."""
    model, added, found = model.double(), {}, {}
    layer = model.model.layers[1]

    def keep(name):
        def hook(_module, args, output):
            output = output[0] if isinstance(output, tuple) else output
            output.retain_grad()
            added[name] = (args[0] if args else None, output)

        return hook

    modules = {"attention": layer.self_attn, "mlp": layer.mlp, "block": layer}
    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    (-logits.log_softmax(-1).gather(-1, ids[:, 1:, None])).sum().backward()
    for handle in handles:
        handle.remove()
    found["delta"] = {name: out.detach() for name, (_, out) in added.items()}
    found["delta"]["block"] = (added["block"][1] - added["block"][0]).detach()
    found["g"] = {name: out.grad for name, (_, out) in added.items()}
    return found


def second(rows: torch.Tensor) -> torch.Tensor:
    rows = rows.flatten(0, 1)
    return rows.T @ rows / len(rows)


def test_dropping_is_expected_to_cost_the_trace_of_both_second_moments(report):
    assert report.sensitivity_tokens == 7 * 15
    delta = observed(tiny("llama"), IDS)["delta"]
    gradient = observed(tiny("llama"), IDS[:7])["g"]
    block = report.blocks[1]
    for unit, of in (("block", block), *block.sub_blocks.items()):
        after = gradient["attention" if unit == "attention" else "block"][:, :-1]  # a last token has no next one
        wanted = float((second(after) * second(delta[unit])).sum() / 2)
        assert of.expected_loss == pytest.approx(wanted, rel=1e-5), unit
        assert of.expected_losses["drop"] == of.expected_loss
        assert list(of.expected_losses) == ["drop", "mean", "diagonal", "rank 8", "full"]


def test_spans_have_the_gradient_after_their_last_block(report):
    [span], second_block = report.spans, report.blocks[1]
    assert span.expected_loss != second_block.expected_loss
    assert expected_losses(report.moments)[Unit(Span(0, 1)), "drop"] == span.expected_loss


def test_a_map_that_was_fitted_can_be_asked_for(report):
    unit = Unit(Span(1, 1), "mlp")
    fitted = fit_block_map(report.moments[f"block.{unit}"])
    in_sample, heldout = expected_loss(report.moments, unit, fitted), expected_losses(report.moments)[unit, "full"]
    assert 0 < in_sample < heldout
    without = {name: one for name, one in report.moments.items() if name.startswith("block")}
    with pytest.raises(LinscoreError, match="score the model with `sensitivity`"):
        expected_loss(without, unit, fitted)
    with pytest.raises(LinscoreError, match="have no gradients"):
        expected_losses(without)


def test_the_other_figures_are_those_of_a_score_without(report):
    without = linscore.score(tiny("llama"), IDS.split(5), sub_blocks=True, spans=[Span(0, 1)], precision="exact")
    for mine, other in zip(report.blocks, without.blocks, strict=True):
        parts = {
            name: dataclasses.replace(one, expected_loss=None, expected_losses=None)
            for name, one in mine.sub_blocks.items()
        }
        assert dataclasses.replace(mine, expected_loss=None, expected_losses=None, sub_blocks=parts) == other
    assert "sensitivity_tokens" not in without.to_dict()


def test_it_is_saved_and_read(report, tmp_path):
    _, moments = report.save(tmp_path)
    assert Report.load(tmp_path) == report
    assert expected_losses(load_moments(moments)[0]) == expected_losses(report.moments)


def test_it_ranks_where_it_was_collected_and_stands_in_the_table(report):
    order = sorted(range(3), key=lambda index: report.blocks[index].expected_loss)
    assert [block.index for block in rank(report)] == order
    without = dataclasses.replace(
        report, blocks=[dataclasses.replace(block, expected_loss=None) for block in report.blocks]
    )
    assert [one.index for one in rank(without)] == [one.index for one in rank(report, by="block_influence")]
    with pytest.raises(LinscoreError, match="it takes a score with `sensitivity`"):
        rank(without, by="expected_loss")
    console = Console(file=io.StringIO(), width=200)
    console.print(score_table(report))
    assert "exp. loss, drop" in console.file.getvalue()
    assert f"{report.blocks[2].expected_losses['full']:.4f}" in console.file.getvalue()


def test_padding_and_positions_that_do_not_count_are_left_out():
    model, ids = tiny("gpt_neox"), IDS[:4]
    padding = torch.zeros(4, 3, dtype=torch.long)
    batch = {
        "input_ids": torch.cat([padding, ids], 1),
        "attention_mask": torch.cat([padding, torch.ones_like(ids)], 1),
    }
    options = {"sensitivity": 10**6, "skip_first": 2, "folds": 1, "precision": "exact"}
    padded, plain = linscore.score(model, [batch], **options), linscore.score(model, [ids], **options)
    assert padded.sensitivity_tokens == plain.sensitivity_tokens == 4 * 13
    for mine, other in zip(padded.blocks, plain.blocks, strict=True):
        assert mine.expected_losses == pytest.approx(other.expected_losses, rel=1e-4)


@pytest.mark.slow
def test_where_memory_is_short_sequences_are_run_by_themselves(monkeypatch):
    def run(most):
        plain, runs = loss_gradients, []

        def limited(decoder, ids, receive, *rest):
            runs.append(len(ids))

            def until(index, *given):
                if len(ids) > most and index == 1:  # half way down
                    raise torch.OutOfMemoryError
                receive(index, *given)

            plain(decoder, ids, until, *rest)

        monkeypatch.setattr("linscore.scoring.sensitivity.loss_gradients", limited)
        report = linscore.score(tiny("llama"), [IDS[:6]], sensitivity=90, precision="exact")
        monkeypatch.undo()
        return report, runs

    whole, once = run(6)
    with pytest.warns(LinscoreWarning, match="need more memory"):
        halved, several = run(3)
    assert (once, several) == ([6], [6, 3, 3])
    for mine, other in zip(halved.blocks, whole.blocks, strict=True):
        assert mine.expected_losses == pytest.approx(other.expected_losses, rel=1e-6)


@pytest.mark.slow
def test_a_score_that_is_gone_on_with_has_the_same(tmp_path):
    keep = linscore.KeepOptions(save_tokens=1)

    def score(out, **more):
        return linscore.score(tiny("llama"), IDS.split(5), sensitivity=TOKENS, out=tmp_path / out, keep=keep, **more)

    calls = iter([None, None])  # then it is interrupted

    def progress(_tokens):
        try:
            next(calls)
        except StopIteration:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        score("broken", progress=progress)
    mine, other = score("broken", resume=True), score("whole")
    assert [block.expected_losses for block in mine.blocks] == [block.expected_losses for block in other.blocks]
    with pytest.raises(LinscoreError, match="sequences"):
        linscore.score(tiny("llama"), [IDS[:, :1]], sensitivity=TOKENS)
