"""Fold the map of removed blocks into the output projection of the MLP before them: a plain checkpoint, no new weights.

m is the MLP's intermediate activation, M = mW + b what it adds to the residual stream, δ = h_j − h_i what the removed
span i … j−1 adds. h_j − (h_i − M) is M + δ, so δ alone is what the projection has to learn:

    on the intermediate   W' = W + T                 T = C_mm⁺ C_mδ       b' = b + μ_δ − μ_m T
    on the output         W' = W + WT, b' = b + bT   T = C_MM⁺ C_Mδ       + μ_δ − μ_M T

Without a bias (Llama) there is no place for means: the same with moments about zero. M being linear in m, the second
form needs moments of M only (d² in place of d_ff²), but has them from those of m too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from linscore.decoder.find import Decoder, find_decoder
from linscore.decoder.mlp_output import find_projection, in_out_weight
from linscore.decoder.wrapped import check_own_modules
from linscore.errors import LinscoreError, all_of, one_of
from linscore.scoring.names import Fused, MomentsName
from linscore.spans import Span, after, indices
from linscore.statistics.centered import Centered
from linscore.statistics.maps import FittedMap, fit
from linscore.statistics.moments import Moments
from linscore.statistics.ridge import Regression
from linscore.surgery.drop import drop

# What can stand for what, the best first: the output's moments follow from those of the intermediate activation.
FORMS: dict[str, tuple[Fused, ...]] = {
    "auto": ("intermediate", "output"),
    "intermediate": ("intermediate",),
    "output": ("output", "intermediate"),
}


@dataclass(frozen=True)
class Fusion:
    """What is added to a projection `[p, d]` and its bias so that it stands for the span after it too.

    Examples:
        >>> moments_of = linscore.score(model, batches, fuse_output=[linscore.Span(3, 3)]).moments
        >>> fusion = linscore.fit_fusion(model, 3, moments_of)
        >>> fusion.weight.shape, fusion.on
        (torch.Size([32, 16]), 'output')
    """

    weight: Tensor  # [p, d] float64, for x @ W
    bias: Tensor | None  # [d] float64; None where the projection has none
    on: str  # "intermediate" or "output"
    fitted: FittedMap  # T, with its ridge and its errors as shares of t_δ


def fit_fusion(
    model: nn.Module,
    span: Span | int,
    moments: Mapping[str, Moments],
    *,
    on: str = "auto",
    ridge: float | Literal["auto"] | None = "auto",
) -> Fusion:
    """The best change of the projection before a span of blocks.

    Args:
        model: the model that the moments were collected from.
        span: the blocks that go; not the first, which has no MLP before it.
        moments: what `score(…, fuse=…)` or `fuse_output=…` collected: "fuse.SPAN.intermediate" or "fuse.SPAN.output".
        on: which of both forms; "auto" takes the intermediate one, which is better, where its moments are there.
        ridge: as in `fit_block_map`.

    Raises:
        LinscoreError: where there are no such moments, or no projection that could take the map.

    Examples:
        >>> span = linscore.Span(3, 4)
        >>> pairs = linscore.score(model, batches, spans=[span], fuse=[span]).moments
        >>> linscore.fit_fusion(model, span, pairs).on
        'intermediate'
    """
    one_of("on", on, FORMS)
    span = Span(span, span) if isinstance(span, int) else span
    decoder = find_decoder(model)
    projection = projection_before(decoder, span)
    form = _form(span, moments, on)
    regression = _regression(projection, span, moments, form)
    fitted = fit(regression, ridge=ridge)
    return _fusion(projection, fitted, form)


def fuse(model: nn.Module, fusions: Mapping[int, Fusion] | Mapping[Span, Fusion]) -> PreTrainedModel:
    """A new model without the blocks of these spans, whose preceding MLPs stand for them; the given one stays.

    Args:
        model: a decoder of transformers, whole and on one device.
        fusions: span (or index of one block) to what `fit_fusion` returned for it.

    Raises:
        LinscoreError: as `drop`, and where the block before a span goes too or has no projection that fits.

    Examples:
        >>> pairs = linscore.score(model, batches, fuse=[linscore.Span(3, 3)]).moments
        >>> linscore.fuse(model, {3: linscore.fit_fusion(model, 3, pairs)}).config.num_hidden_layers
        5
    """
    all_of("fusions", fusions, int | Span, "blocks, each with its fusion")
    spans = {Span(key, key) if isinstance(key, int) else key: fusion for key, fusion in fusions.items()}
    gone = indices(spans)
    whole = find_decoder(model)
    check_own_modules(whole.model, whole.name)
    for span in spans:
        if span.first - 1 in gone:
            raise LinscoreError(
                f"block {span.first - 1}, whose MLP would stand for {span}, goes too: fuse neighbours as one span"
            )
        _check_there(whole, span)
    path = find_projection(whole)  # by running the model: once for all spans
    for span in spans:
        _check_not_first(span)
    cut = drop(model, gone)
    all_of("fusions", fusions.values(), Fusion, "blocks, each with its fusion")
    decoder = find_decoder(cut)
    for span, fusion in spans.items():
        kept = after(span.first, gone) - 1
        _add(decoder.blocks[kept].get_submodule(path), fusion, span)
    return cut


def projection_before(decoder: Decoder, span: Span) -> nn.Module:
    """The output projection of the MLP in the block before a span.

    Raises:
        LinscoreError: if the span begins with block 0 or is not there, or the family has no such projection.
    """
    _check_there(decoder, span)
    path = find_projection(decoder)
    _check_not_first(span)
    return decoder.blocks[span.first - 1].get_submodule(path)


def _check_there(decoder: Decoder, span: Span) -> None:
    if not 0 <= span.first <= span.last < len(decoder.blocks):
        raise LinscoreError(f"{decoder.name} has no blocks {span}: choose from 0 to {len(decoder.blocks) - 1}")


def _check_not_first(span: Span) -> None:
    if span.first == 0:
        raise LinscoreError("block 0 has no MLP before it that could stand for it: drop it, or linearize it")


def _form(span: Span, moments: Mapping[str, Moments], on: str) -> Fused:
    """Which of the two forms the moments allow."""
    there = [form for form in FORMS[on] if str(MomentsName.fused(span, form)) in moments]
    if there:
        return there[0] if on == "auto" else FORMS[on][0]
    raise LinscoreError(
        f"these moments hold nothing to fuse blocks {span} by: collect them with `linscore score --for "
        f"{'fuse-output' if on == 'output' else 'fuse'}{',spans' if span.first < span.last else ''}`, or give a text "
        "for a second pass"
    )


def _regression(projection: nn.Module, span: Span, moments: Mapping[str, Moments], on: Fused) -> Regression:
    """Of δ on m or M; about zero where there is no bias to take the means."""
    own = moments.get(str(MomentsName.fused(span, on)))
    found = own or moments[str(MomentsName.fused(span, "intermediate"))]
    weight, bias = _parameters(projection, found.device)
    width = weight.shape[1] if own is not None and on == "output" else weight.shape[0]
    if (found.d, found.width_delta) != (width, weight.shape[1]):
        raise LinscoreError(
            f"the moments for {span} have widths {found.d} and {found.width_delta}, the projection {width} and "
            f"{weight.shape[1]}: take the moments from this model"
        )
    regression = Regression.of(found, intercept=bias is not None)
    if own is not None:
        return regression
    return regression.mapped(lambda part: _projected(part, weight, bias))


def _parameters(projection: nn.Module, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """W `[p, d]` and b `[d]`, float64."""
    weight, bias = in_out_weight(projection), getattr(projection, "bias", None)
    return weight.detach().to(device).double(), None if bias is None else bias.detach().to(device).double()


def _projected(moments: Centered, weight: Tensor, bias: Tensor | None) -> Centered:
    """The moments of mW + b from those of m."""
    light = moments.c_xx_light
    return replace(
        moments,
        mean_x=moments.mean_x @ weight + (0 if bias is None else bias),
        c_xx=weight.T @ moments.c_xx @ weight,
        c_xd=weight.T @ moments.c_xd,
        c_xx_light=None if light is None else weight.T @ light @ weight,
    )


def _fusion(projection: nn.Module, fitted: FittedMap, on: str) -> Fusion:
    weight, bias = _parameters(projection, fitted.b.device)
    change = fitted.b if on == "intermediate" else weight @ fitted.b
    if bias is None:
        return Fusion(change, None, on, fitted)
    constant = fitted.mean_delta - fitted.mean_x @ fitted.b
    return Fusion(change, constant if on == "intermediate" else constant + bias @ fitted.b, on, fitted)


@torch.no_grad()
def _add(projection: nn.Module, fusion: Fusion, span: Span) -> None:
    """W + T and b + …, summed in float64 and rounded once."""
    weight, bias = in_out_weight(projection), getattr(projection, "bias", None)
    if weight.shape != fusion.weight.shape or (bias is None) != (fusion.bias is None):
        raise LinscoreError(f"what was fitted for {span} does not fit the projection before it: fit it on this model")
    weight.copy_(weight.double() + fusion.weight.to(weight.device))
    if bias is not None and fusion.bias is not None:
        bias.copy_(bias.double() + fusion.bias.to(bias.device))
