import dataclasses

import pytest
import torch
from oracles import heldout_scores, linear_cka, svd_scores
from stacked import stacked_states
from tiny_models import tiny

import linscore
from linscore.decoder.find import find_decoder


def token_batches(vocabulary: int, sequences: int = 24, length: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, vocabulary, (sequences, length), generator=torch.Generator().manual_seed(seed))


def close(a: linscore.Report, b: linscore.Report, bound: float) -> None:
    for mine, other in zip(a.blocks, b.blocks, strict=True):
        for name, value in vars(mine).items():
            if isinstance(value, float):
                assert value == pytest.approx(getattr(other, name), abs=bound, rel=bound), (mine.index, name)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "mamba"])
def test_scores_equal_the_svd_of_all_stacked_states(family):
    model = tiny(family)
    ids = token_batches(model.config.vocab_size)
    report = linscore.score(model, ids.split(5))
    pairs = stacked_states(model, ids)
    assert [block.index for block in report.blocks] == list(range(len(pairs)))
    assert report.tokens == ids.numel()
    for block, (x, y) in zip(report.blocks, pairs, strict=True):
        # BLOOM normalizes its embeddings: they lie in a hyperplane, but for float32 rounding, which is no direction.
        score, score_no_residual = svd_scores(x, y, rounding=1e-6)
        assert block.linearity == pytest.approx(score, abs=1e-5)
        assert block.linearity_no_residual == pytest.approx(score_no_residual, abs=1e-5)
        assert block.cka == pytest.approx(linear_cka(x, y), abs=1e-5)


def test_a_bfloat16_model_is_scored_as_its_own_activations_are():
    model = tiny("llama").to(torch.bfloat16)
    ids = token_batches(model.config.vocab_size)
    exact = linscore.score(model, ids.split(8), precision="exact")
    fast = linscore.score(model, ids.split(8))
    for e, f, (x, y) in zip(exact.blocks, fast.blocks, stacked_states(model, ids), strict=True):
        score, score_no_residual = svd_scores(x, y)
        assert e.linearity == pytest.approx(score, abs=1e-6)
        assert e.linearity_no_residual == pytest.approx(score_no_residual, abs=1e-6)
        assert f.linearity == pytest.approx(score, abs=1e-4)
        assert f.linearity_no_residual == pytest.approx(score_no_residual, abs=1e-3)


def test_folds_follow_the_place_in_the_stream_and_heldout_is_scikit_learns():
    model = tiny("llama")
    ids = token_batches(model.config.vocab_size, sequences=40)
    folds = torch.arange(40) % 2
    report = linscore.score(model, [{"input_ids": ids, "folds": folds}], precision="exact")
    for block, (x, y) in zip(report.blocks, stacked_states(model, ids), strict=True):
        heldout, heldout_no_residual = heldout_scores(x, y, folds.repeat_interleave(32))
        assert block.linearity_heldout == pytest.approx(heldout, abs=1e-8)
        assert block.linearity_no_residual_heldout == pytest.approx(heldout_no_residual, abs=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7, 24])
def test_batch_size_changes_nothing(batch_size):
    model = tiny("llama")
    ids = token_batches(model.config.vocab_size)
    close(linscore.score(model, ids.split(batch_size)), linscore.score(model, ids.split(4)), 1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side):
    model = tiny("llama")
    ids = token_batches(model.config.vocab_size)
    padding, ones = torch.zeros(24, 9, dtype=torch.long), torch.ones_like(ids)
    order = (padding, ids) if side == "left" else (ids, padding)
    mask = torch.cat((padding, ones) if side == "left" else (ones, padding), 1)
    padded = {"input_ids": torch.cat(order, 1), "attention_mask": mask}
    report = linscore.score(model, [padded])
    assert report.tokens == ids.numel()
    close(report, linscore.score(model, [ids]), 1e-6)


def test_first_positions_and_special_tokens_can_be_left_out():
    model = tiny("llama")
    ids = token_batches(model.config.vocab_size)
    ids[:, 10] = 0
    report = linscore.score(model, [ids], skip_first=4, skip_tokens=[0])
    kept = torch.ones_like(ids, dtype=torch.bool)
    kept[:, :4], kept[:, 10] = False, False
    x, y = (t[kept.flatten()] for t in stacked_states(model, ids)[1])
    assert report.tokens == kept.sum()
    assert report.blocks[1].linearity == pytest.approx(svd_scores(x, y)[0], abs=1e-5)


def test_skipping_counts_positions_behind_left_padding():
    model = tiny("llama")
    ids = token_batches(model.config.vocab_size)
    mask = torch.cat([torch.zeros(24, 5), torch.ones(24, 32)], 1).long()
    padded = {"input_ids": torch.cat([torch.zeros(24, 5).long(), ids], 1), "attention_mask": mask}
    close(linscore.score(model, [padded], skip_first=3), linscore.score(model, [ids], skip_first=3), 1e-6)


def test_a_row_that_turns_nan_in_one_block_is_left_out_of_every_block():
    model = tiny("llama")
    ids = token_batches(model.config.vocab_size)
    pairs = stacked_states(model, ids)
    block = find_decoder(model).blocks[-1]

    def spoil(_block, _args, output):  # in the last block, so that no attention spreads it
        if len(output) == len(ids):
            output[3, 7] = float("nan")
        return output

    handle = block.register_forward_hook(spoil)
    report = linscore.score(model, [ids])
    handle.remove()
    assert report.nonfinite_rows == 1
    assert report.tokens == ids.numel() - 1
    assert [w.kind for w in report.warnings if w.kind == "nonfinite_rows"]
    kept = torch.ones(ids.numel(), dtype=torch.bool)
    kept[3 * 32 + 7] = False
    for got, (x, y) in zip(report.blocks, pairs, strict=True):
        assert got.rows == ids.numel() - 1
        assert got.linearity == pytest.approx(svd_scores(x[kept], y[kept])[0], abs=1e-5)


def test_a_model_full_of_nan_is_refused():
    model = tiny("llama")
    with torch.no_grad():
        find_decoder(model).blocks[1].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(linscore.LinscoreError, match=r"block\.1 finite"):
        linscore.score(model, [token_batches(model.config.vocab_size)])


def test_some_blocks_only_score_as_they_do_among_all():
    model = tiny("llama")
    ids = token_batches(model.config.vocab_size)
    some, every = linscore.score(model, [ids], blocks=[0, 2]), linscore.score(model, [ids])
    assert [block.index for block in some.blocks] == [0, 2]
    close(some, dataclasses.replace(every, blocks=[every.blocks[0], every.blocks[2]]), 1e-6)


def test_sub_blocks_score_what_attention_and_mlp_add():
    model = tiny("llama")
    ids = token_batches(model.config.vocab_size)
    report = linscore.score(model, [ids], sub_blocks=True)
    added: dict[str, torch.Tensor] = {}
    block = find_decoder(model).blocks[1]
    handles = [
        getattr(block, name).register_forward_hook(
            lambda _m, _a, out, name=name: added.update(
                {name: (out[0] if isinstance(out, tuple) else out).flatten(0, 1)}
            )
        )
        for name in ("self_attn", "mlp")
    ]
    x, _ = stacked_states(model, ids)[1]
    for handle in handles:
        handle.remove()
    apart = report.blocks[1].sub_blocks
    expected = svd_scores(x.double(), x.double() + added["self_attn"].double())[1]
    assert apart["attention"].linearity_no_residual == pytest.approx(expected, abs=1e-5)
    middle = (x + added["self_attn"]).double()
    expected = svd_scores(middle, middle + added["mlp"].double())[1]
    assert apart["mlp"].linearity_no_residual == pytest.approx(expected, abs=1e-5)


def test_a_plain_module_of_like_blocks_is_scored_too():
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.map = torch.nn.Linear(16, 16)

        def forward(self, x):
            return x + self.map(x)

    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(50, 16)
            self.blocks = torch.nn.ModuleList(Block() for _ in range(3))

        def forward(self, ids):
            x = self.embed(ids)
            for block in self.blocks:
                x = block(x)
            return x

    torch.manual_seed(0)
    report = linscore.score(Decoder(), [token_batches(50)])
    for block in report.blocks:  # exactly affine blocks
        assert block.linearity == pytest.approx(1, abs=1e-6)
        assert block.linearity_no_residual_heldout == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter stands in for a GPU only where there is none")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_triton_backend_gives_the_scores_of_the_eager_one(dtype):
    model = tiny("llama").to(dtype)
    ids = token_batches(model.config.vocab_size, sequences=6)  # of the interpreter's time, each row takes its part
    triton = linscore.score(model, [ids], backend="triton", blocks=[1])
    assert triton.backend == "triton"
    close(triton, linscore.score(model, [ids], backend="eager", blocks=[1]), 1e-5 if dtype is torch.float32 else 1e-3)


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {}, "no batch"),
        ([torch.zeros(4)], {}, r"\[B, T\]"),
        ([{"ids": torch.zeros(4, 4).long()}], {}, "input_ids"),
        ([{"input_ids": torch.zeros(2, 4).long(), "attention_mask": torch.ones(2, 5)}], {}, "one shape"),
        ([{"input_ids": torch.zeros(2, 4).long(), "folds": torch.tensor([0, 2])}], {}, "fold from 0 to 1"),
        ([torch.zeros(4, 4).long()], {"folds": 0}, "`folds` is 0"),
        ([torch.zeros(4, 4).long()], {"blocks": [99]}, "blocks 0 to 2"),
        ([torch.zeros(4, 4).long()], {"skip_first": -1}, "skip_first"),
        ([torch.zeros(4, 4).long()], {"precision": "half"}, "fast, exact"),
        ([torch.zeros(4, 4).long()], {"backend": "cuda"}, "choose auto"),
        (5, {}, "`batches` is of type int"),
        ([torch.zeros(4, 4).long()], {"folds": "2"}, "give a whole number"),
        ([torch.zeros(4, 4).long()], {"blocks": 1}, "`blocks` is 1: give a list of whole numbers"),
        ([torch.zeros(4, 4).long()], {"blocks": "1"}, "a list of whole numbers"),
        ([torch.zeros(4, 4).long()], {"blocks": [1.0]}, "a list of whole numbers"),
        ([torch.zeros(4, 4).long()], {"skip_tokens": ["<s>"]}, "a list of whole numbers"),
        ([torch.zeros(4, 4).long()], {"spans": [(1, 2)]}, "`spans` is .* a list of Span"),
        ([torch.zeros(4, 4).long()], {"fuse": linscore.Span(1, 2)}, "`fuse` is .* a list of Span"),
    ],
)
def test_batches_and_options_that_cannot_be_are_refused(batches, options, message):
    with pytest.raises(linscore.LinscoreError, match=message):
        linscore.score(tiny("llama"), batches, **options)


@pytest.mark.slow
def test_memory_of_a_run_is_that_of_its_moments_however_many_batches():
    model = tiny("llama")
    sizes = []
    for count in (2, 40):
        report = linscore.score(model, token_batches(model.config.vocab_size, 4 * count).split(4))
        cells = [c for m in report.moments.values() for c in m.light + m.heavy if c is not None]
        sizes.append(sum(t.numel() for cell in cells for t in vars(cell).values()))
    assert sizes[0] == sizes[1]


def test_the_dtype_is_that_of_the_numbers_that_are_computed_with():
    """Quantized weights are whole numbers."""
    model = tiny("llama").bfloat16()
    block = find_decoder(model).blocks[0]
    block.codes = torch.nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)
    assert next(block.parameters()).dtype is torch.int8
    assert linscore.score(model, [token_batches(model.config.vocab_size)]).dtype == "bfloat16"
