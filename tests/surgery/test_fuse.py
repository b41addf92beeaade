"""Fusing on tiny models of every family; the oracle is NumPy's least squares on activations that the test collects."""

from functools import cache

import numpy as np
import pytest
import torch
from caches import logits_by_cache
from cut_models import greedy, logits
from cut_models import tokens as few_tokens
from tiny_models import FAMILIES, PROJECTIONS, VOCABULARY, shared, tiny
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import linscore
from linscore import LinscoreError
from linscore.spans import Span
from linscore.surgery.fuse import fit_fusion, fuse

pytestmark = pytest.mark.usefixtures("one_thread")
REFUSED = [family for family in FAMILIES if family not in PROJECTIONS]
fusible = pytest.mark.parametrize("family", PROJECTIONS)
SPANS = [Span(1, 1), Span(2, 2), Span(1, 2)]


def texts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, VOCABULARY, (16, 32), generator=generator) for _ in range(2)]


@cache
def fixture(family: str):
    """A tiny model, and the moments for every span that can be fused in it."""
    model = shared(family)
    report = linscore.score(model, texts(), fuse=SPANS, fuse_output=SPANS, precision="exact", spectra=False)
    return model, report.moments


@torch.no_grad()
def collected(model: nn.Module, family: str, span: Span) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """M, m and δ, row by row, seen by hooks of the test's own."""
    blocks = linscore.find_decoder(model).blocks
    seen: dict[str, list[Tensor]] = {"m": [], "M": [], "x": [], "y": []}

    def rows(tensor: Tensor) -> Tensor:
        return tensor.detach().double().reshape(-1, tensor.shape[-1]).clone()

    def at_projection(_layer, args, output):
        seen["m"].append(rows(args[0]))
        seen["M"].append(rows(output))

    def entering(_block, args, kwargs):
        seen["x"].append(rows(args[0] if args else kwargs["hidden_states"]))

    def leaving(_block, _args, output):
        seen["y"].append(rows(output if isinstance(output, Tensor) else output[0]))

    hooks = [
        blocks[span.first - 1].get_submodule(PROJECTIONS[family]).register_forward_hook(at_projection),
        blocks[span.first].register_forward_pre_hook(entering, with_kwargs=True),
        blocks[span.last].register_forward_hook(leaving),
    ]
    for ids in texts():
        model(ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    m, out, x, y = (torch.cat(seen[name]).numpy() for name in ("m", "M", "x", "y"))
    return m, out, y - x


def least_squares(x: np.ndarray, delta: np.ndarray, intercept: bool) -> np.ndarray:
    """What predicts δ best, evaluated on the rows themselves."""
    design = np.hstack([x, np.ones((len(x), 1))]) if intercept else x
    return design @ np.linalg.lstsq(design, delta, rcond=1e-12)[0]


@pytest.mark.slow
@pytest.mark.parametrize("on", ["intermediate", "output"])
@fusible
def test_the_projection_gives_what_it_gave_plus_the_best_prediction_of_the_span(family, on):
    model, moments = fixture(family)
    span = Span(1, 2) if on == "output" else Span(2, 2)
    m, out, delta = collected(model, family, span)
    fused = fuse(model, {span: fit_fusion(model, span, moments, on=on, ridge=None)})
    layer = linscore.find_decoder(fused).blocks[span.first - 1].get_submodule(PROJECTIONS[family])
    found = layer(torch.tensor(m).float()).detach().double().numpy()
    intercept = getattr(layer, "bias", None) is not None
    expected = out + least_squares(m if on == "intermediate" else out, delta, intercept)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    assert np.abs(found - out).max() > 1e-2 * np.abs(out).max()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_outputs_form_follows_from_the_intermediates_moments(family):
    model, moments = fixture(family)
    span = Span(1, 1)
    alone = {f"fuse.{span}.intermediate": moments[f"fuse.{span}.intermediate"]}
    direct = fit_fusion(model, span, moments, on="output", ridge=1e-3)
    derived = fit_fusion(model, span, alone, on="output", ridge=1e-3)
    torch.testing.assert_close(derived.weight, direct.weight, rtol=1e-4, atol=1e-5)
    assert derived.on == direct.on == "output"


def test_errors_are_those_on_the_rows_themselves():
    model, moments = fixture("llama")
    m, _, delta = collected(model, "llama", Span(1, 1))
    missed = delta - least_squares(m, delta, intercept=False)
    total = (delta - delta.mean(0)) ** 2
    fitted = fit_fusion(model, 1, moments, ridge=None).fitted
    assert fitted.error == pytest.approx((missed**2).sum() / total.sum(), rel=1e-5)
    assert fitted.error_heldout > fitted.error
    assert fit_fusion(model, 1, moments).fitted.error_heldout <= fitted.error_heldout  # the ridge was chosen by it


@pytest.mark.slow
@fusible
def test_a_fused_checkpoint_is_plain(family, tmp_path):
    model, moments = fixture(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fused = fuse(model, {1: fit_fusion(model, 1, moments)})
    fused.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = few_tokens()
    assert type(again) is type(model)
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in model.parameters())
    torch.testing.assert_close(logits(again, ids), logits(fused, ids), rtol=0, atol=0)
    torch.testing.assert_close(logits_by_cache(again, ids), logits(again, ids), rtol=1e-4, atol=1e-4)
    assert greedy(again, ids, use_cache=True) == greedy(fused, ids, use_cache=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_two_spans_are_fused_at_once():
    model = tiny("llama", num_hidden_layers=6)
    spans = [Span(1, 1), Span(3, 4)]
    moments = linscore.score(model, texts(), fuse=spans, spectra=False).moments
    fusions = {span: fit_fusion(model, span, moments) for span in spans}
    fused = fuse(model, fusions)
    for old, new, fusion in ((0, 0, fusions[spans[0]]), (2, 1, fusions[spans[1]])):
        before, after = (m.model.layers[i].mlp.down_proj.weight for m, i in ((model, old), (fused, new)))
        torch.testing.assert_close((after - before).T.double(), fusion.weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fused.model.layers[2].mlp.down_proj.weight, model.model.layers[5].mlp.down_proj.weight)


@pytest.mark.parametrize("family", REFUSED)
def test_families_whose_mlp_does_not_end_in_the_stream_are_refused(family):
    with pytest.raises(LinscoreError, match="no map can be fused") as refusal:
        fit_fusion(tiny(family), 1, {})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (0, ["block 0", "no MLP before it"]),
        (Span(2, 3), ["no blocks 2-3"]),
        (2, ["--for fuse", "second pass"]),
        (Span(1, 2), ["--for fuse,spans"]),
    ],
)
def test_spans_that_cannot_be_fused_are_refused(span, words):
    with pytest.raises(LinscoreError) as refusal:
        fit_fusion(tiny("llama"), span, {})
    assert all(word in str(refusal.value) for word in words), refusal.value


def test_moments_of_another_width_are_refused():
    _, moments = fixture("llama")
    with pytest.raises(LinscoreError, match="take the moments from this model"):
        fit_fusion(tiny("llama", intermediate_size=64), 1, moments)


def test_a_fusion_of_another_shape_and_neighbours_apart_are_refused():
    model, moments = fixture("llama")
    fusion = fit_fusion(model, 1, moments)
    with pytest.raises(LinscoreError, match="does not fit the projection"):
        fuse(tiny("llama", intermediate_size=64), {1: fusion})
    with pytest.raises(LinscoreError, match="fuse neighbours as one span"):
        fuse(model, {1: fusion, 2: fusion})
