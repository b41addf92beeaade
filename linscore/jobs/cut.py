"""The jobs of `linscore prune`, `linearize` and `fuse`: from names and paths to a saved model with less in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from linscore.decoder.find import find_decoder
from linscore.decoder.mlp_output import find_projection
from linscore.errors import LinscoreError
from linscore.files import new_folder
from linscore.jobs.cut_moments import MapMoments, find_moments, name_of
from linscore.jobs.cut_request import Wanted
from linscore.machine.versions import versions
from linscore.models.cost import block_costs
from linscore.models.load import Pretrained, load_pretrained
from linscore.scoring.belongs import check_belongs
from linscore.spans import Span, runs
from linscore.statistics.maps import FittedMap, fit_block_map
from linscore.surgery.drop import drop
from linscore.surgery.fuse import FORMS, Fusion, On, fit_fusion, fuse
from linscore.surgery.linearize import linearize
from linscore.surgery.record import Record, Replacement
from linscore.surgery.save import save_checkpoint

Say = Callable[[str], None]
Form = Literal["dropped", "linear", "fused"]


@dataclass(frozen=True)
class Result:
    """A cut model, what became of each span, and where the moments of its maps come from."""

    model: PreTrainedModel
    replacements: list[Replacement]
    source: dict[str, Any] | None = None


@dataclass(frozen=True)
class Cut:
    """What one of these jobs did: where the model is, and its record."""

    out: Path
    record: Record


def run_prune(model: str, *, out: str, dtype: str = "auto", device: str = "auto", **wanted: Any) -> Cut:
    """Drop blocks of `model` and save what is left to `out`; `wanted` are the fields of `Wanted`.

    Raises:
        LinscoreError: for any input that cannot be used, and when `out` exists; nothing is written then.
    """
    ask = Wanted(fits=False, **wanted)
    return _run(model, "drop", out, ask, dtype, device, lambda loaded, spans: _dropped(loaded.model, spans))


def run_linearize(
    model: str,
    *,
    out: str,
    rank: int | None = None,
    diagonal: bool = False,
    ridge: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    say: Say = lambda _line: None,
    **wanted: Any,
) -> Cut:
    """Put linear blocks in the place of blocks and spans of `model`, and save it to `out`.

    A list such as "3,5-7" names one map for block 3 and one for the whole span 5 to 7.

    Raises:
        LinscoreError: as `run_prune`, and for maps that cannot be fitted.
    """
    ask = Wanted(option="--replace", **wanted)
    options: dict[str, Any] = {"kind": "diagonal"} if diagonal else {}
    options |= {"rank": rank, "ridge": _ridge(ridge) if ridge is not None or not diagonal else None}

    def operate(loaded: Pretrained, spans: Sequence[Span]) -> Result:
        source = find_moments(loaded, ask, {span: [name_of(span)] for span in spans}, say)
        maps = {span: fit_block_map(source.moments[name_of(span)], **options) for span in spans}
        return _replaced(loaded.model, {}, maps, {}, source)

    return _run(model, "linearize", out, ask, dtype, device, operate, say)


def run_fuse(
    model: str,
    *,
    out: str,
    on: On = "auto",
    auto: bool = False,
    ridge: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    say: Say = lambda _line: None,
    **wanted: Any,
) -> Cut:
    """Drop blocks of `model`, fold their map into the MLP before them, and save what is left to `out`.

    Neighbours are fused as one span. `auto` puts a linear block where nothing can be fused, and says why.

    Raises:
        LinscoreError: as `run_prune`, and where a span cannot be fused and `auto` is not set.
    """
    ask = Wanted(**wanted)
    if on not in FORMS:
        raise LinscoreError(f"--on {on!r} is unknown: give one of {', '.join(FORMS)}")

    def operate(loaded: Pretrained, spans: Sequence[Span]) -> Result:
        merged = runs([index for span in spans for index in span.blocks])
        reasons = _cannot_be_fused(loaded.model, merged, auto)
        names = {s: [name_of(s)] if s in reasons else [name_of(s, form) for form in FORMS[on]] for s in merged}
        source = find_moments(loaded, ask, names, say)
        fused = [span for span in merged if span not in reasons]
        fusions = {s: fit_fusion(loaded.model, s, source.moments, on=on, ridge=_ridge(ridge)) for s in fused}
        maps = {span: fit_block_map(source.moments[name_of(span)], ridge=_ridge(ridge)) for span in reasons}
        return _replaced(loaded.model, fusions, maps, reasons, source)

    return _run(model, "fuse", out, ask, dtype, device, operate, say)


def _run(
    name: str,
    operation: Literal["drop", "linearize", "fuse"],
    out: str,
    ask: Wanted,
    dtype: str,
    device: str,
    operate: Callable[[Pretrained, Sequence[Span]], Result],
    say: Say = lambda _line: None,
) -> Cut:
    with new_folder(out) as folder:
        report = ask.check()
        loaded = load_pretrained(name, dtype=dtype, device=device)
        if report is not None:
            check_belongs(report, loaded)
        choice = None if ask.number is None else ask.choose(loaded, report)
        result = operate(loaded, ask.named() if choice is None else choice.spans)
        _warn(result.replacements, say)
        if dtype == "auto" and loaded.stored is torch.float16:  # which a CPU has loaded as float32
            result.model.half()
        _check_finite(result.model)
        record = Record(
            operation=operation,
            model=name,
            replacements=result.replacements,
            choice=None if choice is None else asdict(choice),
            moments=result.source,
            versions=versions(),
            **_sizes(loaded.model, result.model),
        )
        save_checkpoint(folder, result.model, loaded.tokenizer, record)
    return Cut(Path(out), record)


def _warn(replacements: Sequence[Replacement], say: Say) -> None:
    """Point out maps that are worse than none."""
    for one in replacements:
        missed = (one.fit or {}).get("error_heldout")
        if missed is not None and missed >= 1:
            say(f"warning: on unseen text the map for block {one.span} is worse than none: give more text")


def _check_finite(model: PreTrainedModel) -> None:
    """Raises LinscoreError for weights that are NaN, or beyond 16 bits."""
    spoilt = next((name for name, parameter in model.named_parameters() if not parameter.isfinite().all()), None)
    if spoilt is not None:
        raise LinscoreError(f"{spoilt} would not be finite: give --dtype float32, or check the model's weights")


def _dropped(model: PreTrainedModel, spans: Sequence[Span]) -> Result:
    gone = [index for span in spans for index in span.blocks]
    cut, where = drop(model, gone), {span: _index_after(span.first, gone) - 1 for span in runs(gone)}
    return Result(cut, [Replacement(str(span), "dropped", i if i >= 0 else None) for span, i in where.items()])


def _replaced(
    model: PreTrainedModel,
    fusions: Mapping[Span, Fusion],
    maps: Mapping[Span, FittedMap],
    reasons: Mapping[Span, str],
    source: MapMoments,
) -> Result:
    """Fuse some spans, put linear blocks in the place of others, and note which block stands for which."""
    gone = [index for span in fusions for index in span.blocks]
    cut = fuse(model, fusions) if fusions else model
    if maps:
        cut = linearize(cut, {Span(*(_index_after(i, gone) for i in span)): fitted for span, fitted in maps.items()})
    gone += [index for span in maps for index in span.blocks if index != span.first]
    projection = find_projection(find_decoder(model)) if fusions else ""
    replacements = []
    for span in sorted([*fusions, *maps]):
        fusion = fusions.get(span)
        index = _index_after(span.first, gone) - (fusion is not None)
        form: Form = "linear" if fusion is None else "fused"
        fitted = maps[span] if fusion is None else fusion.fitted
        names = _names(cut, index, "" if fusion is None else projection)
        fit = _described(fitted, None if fusion is None else fusion.on)
        replacements.append(Replacement(str(span), form, index, names, fit, reasons.get(span)))
    return Result(cut, replacements, source.origin)


def _cannot_be_fused(model: PreTrainedModel, spans: Sequence[Span], auto: bool) -> dict[Span, str]:
    """Why some of these spans cannot be fused; without `auto` the first reason is an error."""
    decoder = find_decoder(model)
    reasons = {span: "block 0 has no MLP before it" for span in spans if span.first == 0}
    try:
        find_projection(decoder)
    except LinscoreError as error:
        reasons = dict.fromkeys(spans, str(error))
    if reasons and not auto:
        raise LinscoreError(f"{next(iter(reasons.values()))}; give --auto for a linear block there")
    return reasons


def _index_after(index: int, gone: Sequence[int]) -> int:
    """What the block `index` is called once these blocks are gone."""
    return index - sum(one < index for one in gone)


def _names(model: PreTrainedModel, index: int, path: str) -> list[str]:
    """Names of the parameters of a block, or of a module inside it, in the whole model."""
    decoder = find_decoder(model)
    inside = {id(parameter) for parameter in decoder.blocks[index].get_submodule(path).parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in inside]


def _described(fitted: FittedMap, on: str | None) -> dict[str, Any]:
    """How a map was fitted, for the record."""
    form = {"kind": fitted.kind, "rank": fitted.rank} if on is None else {"on": on}
    return {**form, "ridge": fitted.ridge, "error": fitted.error, "error_heldout": fitted.error_heldout}


def _ridge(text: str | None) -> float | Literal["auto"] | None:
    """Read --ridge: auto, or λ; 0 for none.

    Raises:
        LinscoreError: for anything else.
    """
    if text is None or text == "auto":
        return "auto"
    try:
        return float(text) or None
    except ValueError as error:
        raise LinscoreError(f"--ridge {text!r} is no number: give auto, 0 for none, or a number above 0") from error


def _sizes(model: PreTrainedModel, cut: PreTrainedModel) -> dict[str, Any]:
    """Blocks, parameters (tied ones once) and FLOP per token of all blocks, of the original and of the cut model."""
    sizes = {}
    for suffix, one in (("_before", model), ("", cut)):
        costs = block_costs(one)
        sizes[f"depth{suffix}"] = len(costs)
        sizes[f"parameters{suffix}"] = sum(parameter.numel() for parameter in one.parameters())
        sizes[f"flops_per_token{suffix}"] = sum(cost.flops_per_token for cost in costs)
    return sizes
