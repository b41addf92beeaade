"""Cuts that are measured by hooks; the oracle overwrites what units add by hooks of its own, in float64."""

import math

import pytest
import torch
from decoders import decoder_of, hook_count, sub_blocks_of
from tiny_models import VOCABULARY, WIDTH, shared

from linscore.compression import trials
from linscore.compression.trials import Replaced, Trials, stand_in
from linscore.errors import LinscoreError
from linscore.spans import Unit
from linscore.statistics.affine import AffineMap

pytestmark = pytest.mark.usefixtures("one_thread")
FAMILIES = ["llama", "gpt2", "gpt_neox", "falcon", "bloom", "gemma2", "opt"]


def batches():
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(3, VOCABULARY, shape, generator=generator)} for shape in ((3, 9), (2, 6))]


def a_map(seed):
    generator = torch.Generator().manual_seed(seed)
    b, mean_x, mean_delta = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) / 8
        for shape in ((WIDTH, WIDTH), (WIDTH,), (WIDTH,))
    )
    return AffineMap(b, mean_x, mean_delta)


class Oracle:
    """Blocks and parts overwritten while a model runs."""

    def __init__(self, family):
        self.decoder, self.paths, self.hooks = decoder_of(family), sub_blocks_of(family), []

    def replace(self, unit, fitted):
        block, seen = self.decoder.blocks[unit.span.first], {}

        def adds(state):
            if fitted is None:
                return torch.zeros_like(state)
            return ((state.double() - fitted.mean_x) @ fitted.b + fitted.mean_delta).to(state.dtype)

        def like(output, value):
            return (value, *output[1:]) if isinstance(output, tuple) else value

        def enter(_block, args, kwargs):
            seen["x"] = kwargs.get("hidden_states", args[0] if args else None).clone()

        def leave(_block, _args, output):
            return like(output, seen["x"] + adds(seen["x"]))

        def attended(_module, _args, output):
            seen["mlp_input"] = seen["x"] + (output[0] if isinstance(output, tuple) else output)

        def part(_module, _args, output):
            first = output[0] if isinstance(output, tuple) else output
            state = seen["x"] if unit.part == "attention" or self.paths.parallel else seen["mlp_input"]
            return like(output, adds(state).reshape(first.shape))

        self.hooks.append(block.register_forward_pre_hook(enter, with_kwargs=True))
        if not unit.part:
            self.hooks.append(block.register_forward_hook(leave))
            return
        if unit.part == "mlp":
            self.hooks.append(block.get_submodule(self.paths.attention).register_forward_hook(attended))
        path = self.paths.attention if unit.part == "attention" else self.paths.mlp
        self.hooks.append(block.get_submodule(path).register_forward_hook(part))

    @torch.no_grad()
    def loss(self):
        rows = [batch["input_ids"] for batch in batches()]
        losses = [(self.decoder.model(ids, labels=ids).loss, ids[:, 1:].numel()) for ids in rows]
        return sum(float(loss) * count for loss, count in losses) / sum(count for _, count in losses)


def measured(family, cuts):
    decoder = decoder_of(family)
    of = Trials(Replaced(decoder, sub_blocks_of(family)), batches())
    like = next(decoder.blocks.parameters())
    found = []
    for cut in cuts:
        made = {Unit.parse(unit): stand_in(fitted, like) for unit, fitted in cut.items()}
        found.append((of.measure(made), of.take(made)))
    return found


CUTS = [
    {"1.attention": None},
    {"1.attention": None, "2.mlp": a_map(1)},
    {"1.attention": a_map(2), "1.mlp": a_map(3)},
    {"0.mlp": None, "2": a_map(4)},
    {"2": None},
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_with_the_units_overwritten_whatever_cut_was_taken_before(family):
    found = measured(family, CUTS)
    for cut, (once, taken) in zip(CUTS, found, strict=True):
        oracle = Oracle(family)
        for unit, fitted in cut.items():
            oracle.replace(Unit.parse(unit), fitted)
        expected = oracle.loss()
        for hook in oracle.hooks:
            hook.remove()
        assert once == pytest.approx(expected, rel=1e-5)
        assert taken == once
    assert len({once for once, _ in found}) == len(CUTS)


def test_a_trial_runs_what_comes_after_its_change_and_leaves_the_model_as_it_was():
    decoder = decoder_of("llama")
    before, losses = hook_count(decoder.model), []
    trials = Trials(Replaced(decoder, sub_blocks_of("llama")), batches())
    ran = []
    hook = decoder.blocks[0].mlp.register_forward_hook(lambda *_: ran.append(0))
    losses.append(trials.measure({Unit.parse("2.mlp"): None}))
    hook.remove()
    assert ran == []
    assert trials.trials == 1
    assert trials.passes == pytest.approx(1 + 1 / 3)
    assert hook_count(decoder.model) == before
    assert all("forward" not in vars(module) for module in decoder.model.modules())
    assert trials.measure({}) == trials.loss
    assert math.isfinite(losses[0])


@pytest.mark.filterwarnings("ignore:.*need more memory")
def test_where_memory_does_not_suffice_fewer_rows_run_and_the_losses_are_the_same(monkeypatch):
    made = [{Unit.parse("1.mlp"): None}, {Unit.parse("1.mlp"): None, Unit.parse("2.attention"): None}]

    def losses():
        measured = Trials(Replaced(decoder_of("llama"), sub_blocks_of("llama")), batches())
        return [measured.loss, measured.take(made[0]), measured.measure(made[1])]

    expected, rows, whole = losses(), [], trials.batch_loss

    def short(model, batch):
        rows.append(len(batch["input_ids"]))
        if rows[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(model, batch)

    monkeypatch.setattr(trials, "batch_loss", short)
    assert losses() == pytest.approx(expected, rel=1e-6)
    assert rows[:4] == [3, 2, 1, 2]
    assert max(rows[1:]) == 2


def test_a_text_without_a_token_to_predict_is_refused():
    decoder = decoder_of("llama")
    with pytest.raises(LinscoreError, match="no token to predict"):
        Trials(Replaced(decoder, None), [{"input_ids": torch.ones(2, 1, dtype=torch.long)}])
    assert shared("llama") is not None
