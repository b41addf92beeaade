"""Spans and fusions: which states are paired, and which are refused; the oracle is hooks of the tests' own."""

import copy
import pickle
import weakref

import pytest
import torch
from span_moments import FUSE, SPANS, observe, rows, tokens
from tiny_models import FAMILIES, PROJECTIONS, shared, tiny

import linscore
from linscore import Collector, LinscoreError, find_decoder
from linscore.spans import Span

pytestmark = pytest.mark.usefixtures("one_thread")


NAMES = {f"block.{i}" for i in range(3)} | {"state.3", "span.0-1", "span.1-2", "span.0-2"}
FUSE_NAMES = {f"fuse.{span}.{kind}" for span in ("1", "2", "1-2") for kind in ("intermediate", "output")}


def collect(model: torch.nn.Module, batches, precision: str = "exact", **options) -> Collector:
    collector = Collector(find_decoder(model), precision=precision, **options)
    for batch in batches:
        collector.add(batch)
    return collector


def read(moments: linscore.Moments) -> dict[str, torch.Tensor]:
    """Means and centred second moments, from the sums about the pilot by the formulas of any textbook."""
    cell, pilot, d = moments.total(), moments.pilot, moments.d
    s_x, s_delta, upper = cell.sum_x, cell.sum_delta, cell.second[:, :d].triu()
    return {
        "n": cell.n,
        "mean_x": pilot.center_x.double() + s_x / cell.n,
        "mean_delta": pilot.center_delta.double() + s_delta / cell.n,
        "c_xx": upper + upper.triu(1).T - torch.outer(s_x, s_x) / cell.n,
        "c_xdelta": cell.second[:, d:] - torch.outer(s_x, s_delta) / cell.n,
    }


def expected(x: torch.Tensor, delta: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same in float64 from all rows."""
    x, delta = x.double(), delta.double()
    x_c, delta_c = x - x.mean(0), delta - delta.mean(0)
    return {
        "n": torch.tensor(float(len(x)), dtype=torch.float64),
        "mean_x": x.mean(0),
        "mean_delta": delta.mean(0),
        "c_xx": x_c.T @ x_c,
        "c_xdelta": x_c.T @ delta_c,
    }


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], bound: float = 1e-6) -> None:
    for key, value in wanted.items():
        assert found[key].shape == value.shape, key
        assert (found[key] - value).abs().max() <= bound * value.abs().max(), key


def same_as_observed(collector: Collector, seen: dict[str, list[torch.Tensor]], kept=slice(None), bound=1e-6) -> None:
    """Every span and every fusion of a collector against what the test's own hooks saw."""
    for span in SPANS:
        x, y = (seen["h"][i][kept].double() for i in (span.first, span.last + 1))
        same(read(collector.moments[f"span.{span}"]), expected(x, y - x), bound)
    for span in FUSE:
        h = [seen["h"][i][kept].float() for i in (span.first, span.last + 1)]
        for kind, key in (("intermediate", "m"), ("output", "M")):
            before = seen[key][span.first - 1][kept]
            same(read(collector.moments[f"fuse.{span}.{kind}"]), expected(before, h[1] - h[0]), bound)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_spans_of_every_family_pair_what_enters_with_what_leaves(family):
    model, ids = shared(family), tokens(4)
    collector = collect(model, [ids], spans=SPANS)
    assert set(collector.moments) == NAMES
    h = observe(model, ids)["h"]
    for span in SPANS:
        x, y = h[span.first].double(), h[span.last + 1].double()
        same(read(collector.moments[f"span.{span}"]), expected(x, y - x))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "bloom", "gptj", "falcon", "mpt", "opt", "llama", "mamba"])
def test_fusing_pairs_the_mlp_before_a_span_with_what_the_span_adds(family):
    model, ids = shared(family), tokens()
    collector = collect(model, ids.split(5), spans=SPANS, fuse=FUSE, fuse_output=FUSE)
    assert set(collector.moments) == NAMES | FUSE_NAMES
    same_as_observed(collector, observe(model, ids, PROJECTIONS[family]))


def test_states_agree_with_the_hidden_states_of_transformers():
    model, ids = tiny("llama"), tokens()
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states
    x, y = rows(hidden[0]).double(), rows(hidden[2]).double()
    same(read(collect(model, [ids], spans=[Span(0, 1)]).moments["span.0-1"]), expected(x, y - x))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_counts_nowhere(side):
    model, ids = tiny("opt"), tokens()
    padding, ones = torch.zeros(12, 9, dtype=torch.long), torch.ones_like(ids)
    order, masks = ((padding, ids), (padding, ones)) if side == "left" else ((ids, padding), (ones, padding))
    padded = {"input_ids": torch.cat(order, 1), "attention_mask": torch.cat(masks, 1)}
    collector = collect(model, [padded], spans=SPANS, fuse=FUSE, fuse_output=FUSE)
    same_as_observed(collector, observe(model, ids, "fc2"), bound=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7, 12])
def test_batch_size_changes_nothing(batch_size):
    model, ids = tiny("gpt2"), tokens()
    collector = collect(model, ids.split(batch_size), spans=SPANS, fuse=FUSE, fuse_output=FUSE)
    same_as_observed(collector, observe(model, ids, "mlp.c_proj"), bound=1e-5)


def test_a_row_that_turns_nan_later_is_given_back_by_spans_and_fusions():
    model, ids = tiny("llama"), tokens()
    seen = observe(model, ids, "mlp.down_proj")

    def spoil(_block, _args, output):  # in the last block, so that no attention spreads it
        if len(output) == len(ids):
            output[3, 7] = float("nan")
        return output

    handle = find_decoder(model).blocks[-1].register_forward_hook(spoil)
    collector = collect(model, [ids], spans=SPANS, fuse=FUSE, fuse_output=FUSE)
    handle.remove()
    kept = torch.ones(ids.numel(), dtype=torch.bool)
    kept[3 * 16 + 7] = False
    assert collector.nonfinite_rows == 1
    assert {int(moments.total().n) for moments in collector.moments.values()} == {ids.numel() - 1}
    same_as_observed(collector, seen, kept)


def test_a_row_that_is_nan_in_the_mlp_alone_is_left_out_of_every_block():
    model, ids = tiny("llama"), tokens()
    layer = find_decoder(model).blocks[1].mlp.down_proj

    def spoil(_layer, args):
        if len(args[0]) == len(ids):
            args[0][3, 7] = float("inf")

    def mend(_layer, _args, output):
        return output.nan_to_num(0, 0, 0)

    handles = [layer.register_forward_pre_hook(spoil), layer.register_forward_hook(mend)]
    collector = collect(model, [ids], spans=SPANS, fuse=FUSE)
    for handle in handles:
        handle.remove()
    assert collector.nonfinite_rows == 1
    assert {int(moments.total().n) for moments in collector.moments.values()} == {ids.numel() - 1}


def test_what_a_span_of_16_bit_states_adds_is_not_rounded_to_16_bits():
    model, ids = tiny("llama").to(torch.bfloat16), tokens()
    collector = collect(model, [ids], spans=SPANS, fuse=FUSE, fuse_output=FUSE)
    same_as_observed(collector, observe(model, ids, "mlp.down_proj"))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter stands in for a GPU only where there is none")
def test_the_triton_backend_takes_a_float32_delta_beside_16_bit_activations():
    model, ids = tiny("llama").to(torch.bfloat16), tokens(4)
    found, wanted = (
        read(collect(model, [ids], "fast", blocks=[0], fuse=[Span(1, 2)], backend=b).moments["fuse.1-2.intermediate"])
        for b in ("triton", "eager")
    )
    same(found, wanted, bound=5e-3)  # Triton rounds its operands to the 16 bits of m


def test_spans_reach_beyond_the_chosen_blocks():
    model, ids = tiny("llama"), tokens()
    collector = collect(model, [ids], blocks=[1], spans=[Span(0, 2)], fuse=[Span(2, 2)])
    assert set(collector.moments) == {"block.1", "state.2", "span.0-2", "fuse.2.intermediate"}
    seen = observe(model, ids, "mlp.down_proj")
    h = seen["h"]
    same(read(collector.moments["span.0-2"]), expected(h[0], h[3].double() - h[0].double()))
    same(read(collector.moments["fuse.2.intermediate"]), expected(seen["m"][1], h[3] - h[2]))
    report = linscore.score(model, [ids], blocks=[1], spans=[Span(0, 2)])
    assert report.spans[0].cka is None  # the Gram matrix of what leaves block 2 was not asked for


def test_a_single_block_among_spans_is_a_block():
    model, ids = tiny("llama"), tokens()
    assert set(collect(model, [ids], blocks=[0], spans=[Span(2, 2)]).moments) == {
        "block.0",
        "state.1",
        "block.2",
        "state.3",
    }


def test_states_are_let_go_when_their_span_has_ended():
    model, ids = tiny("llama", num_hidden_layers=5), tokens()
    blocks = find_decoder(model).blocks
    collector = Collector(find_decoder(model), spans=[Span(1, 2)], fuse=[Span(1, 2)])
    kept: list[weakref.ref] = []
    alive: list[int] = []
    blocks[1].register_forward_pre_hook(lambda _b, args: kept.append(weakref.ref(args[0])))
    blocks[0].mlp.down_proj.register_forward_pre_hook(lambda _b, args: kept.append(weakref.ref(args[0])))
    for index in (2, 3):
        blocks[index].register_forward_pre_hook(lambda _b, _a: alive.append(sum(r() is not None for r in kept)))
    collector.add(ids)
    assert alive == [2, 0]


def test_a_pass_that_breaks_off_holds_nothing():
    model, ids = tiny("llama"), tokens()
    collector = Collector(find_decoder(model), spans=[Span(0, 2)], fuse=[Span(1, 2)])
    kept: list[weakref.ref] = []
    blocks = find_decoder(model).blocks
    blocks[0].mlp.down_proj.register_forward_pre_hook(lambda _b, args: kept.append(weakref.ref(args[0])))

    def fail(_block, _args):
        raise RuntimeError("out of memory")

    handle = blocks[2].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        collector.add(ids)
    handle.remove()
    assert [r() for r in kept] == [None]
    collector.add(ids)
    assert collector.moments["span.0-2"].total().n == ids.numel()


@pytest.mark.parametrize("ends", [(3, 1), (-1, 2), (1.0, 2), ("1", "2"), (None, 1)])
def test_a_span_that_cannot_be_is_not_made(ends):
    with pytest.raises(LinscoreError, match=r"`(first|last)` is"):
        Span(*ends)
    with pytest.raises(LinscoreError, match="no block and no span"):
        Span.parse(ends[0] if ends[0] is None else "-".join(map(str, ends)) + "-")


def test_a_span_survives_a_copy():
    assert pickle.loads(pickle.dumps(Span(1, 2))) == copy.deepcopy(Span(1, 2)) == Span(1, 2) == (1, 2)


def no_batches():
    pytest.fail("a batch was read before the options were checked")
    yield


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("llama", {"spans": [Span(1, 3)]}, "spans 1-3 are not all there: this decoder has blocks 0 to 2"),
        ("llama", {"fuse": [Span(2, 3)]}, "spans 2-3 are not all there"),
        ("llama", {"fuse": [Span(0, 1)]}, "block 0 has no MLP before it"),
        ("llama", {"fuse_output": [Span(0, 0)]}, "block 0 has no MLP before it"),
        ("gemma2", {"fuse": [Span(1, 1)]}, "norm"),
        ("mixtral", {"fuse_output": [Span(1, 1)]}, "experts"),
    ],
)
def test_spans_that_cannot_be_are_refused_before_the_pass(family, options, message):
    with pytest.raises(LinscoreError, match=message):
        linscore.score(tiny(family), no_batches(), **options)


def test_an_mlp_narrower_than_the_stream_is_sent_to_fuse_output():
    model = tiny("llama", intermediate_size=24)
    with pytest.raises(LinscoreError, match=r"24 inputs, fewer than the 32 features.*fuse-output"):
        linscore.score(model, no_batches(), fuse=[Span(1, 1)])
    collect(model, [tokens(2)], fuse_output=[Span(1, 1)])
