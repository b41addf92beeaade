"""What prune, linearize and fuse do alike: from names and paths to a saved model with less in it, and its record."""

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
from linscore.files.whole import new_folder
from linscore.jobs.cut_moments import MapMoments
from linscore.jobs.cut_request import CutRequest
from linscore.machine.versions import versions
from linscore.models.cost import sizes
from linscore.models.load import Pretrained, load_pretrained
from linscore.options.place import PlaceOptions
from linscore.scoring.belongs import check_belongs
from linscore.spans import Span, Unit, after, indices
from linscore.statistics.maps import FittedMap
from linscore.surgery.fuse import Fusion, fuse
from linscore.surgery.linearize import replace_units
from linscore.surgery.record import Form, Operation, Record, Replacement
from linscore.surgery.same_cut import SameCut, same_cut
from linscore.surgery.save import save_checkpoint

Say = Callable[[str], None]


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


def quiet_say(_line: str) -> None:
    """Nothing: what a job says where nobody listens."""


def run_cut(
    name: str,
    operation: Operation,
    out: str,
    request: CutRequest,
    place: PlaceOptions,
    operate: Callable[[Pretrained, Sequence[Unit]], Result],
    say: Say = quiet_say,
) -> Cut:
    """Load a model, let `operate` cut the blocks that `request` means, and save what comes of it to `out`.

    Raises:
        LinscoreError: for any input that cannot be used, and when `out` exists; nothing is written then.
    """
    with new_folder(out) as folder:
        report = request.check()
        loaded = load_pretrained(name, **asdict(place))
        decoder = loaded.decoder
        if report is not None:
            check_belongs(report, decoder, loaded.name)
        choice = None if request.number is None else request.choose(loaded, decoder, report)
        result = operate(loaded, request.named() if choice is None else [Unit(span) for span in choice.spans])
        _warn(result.replacements, say)
        if place.dtype == "auto" and loaded.stored is torch.float16:  # which a CPU has loaded as float32
            for one in (result.model, loaded.model):  # of which both are measured
                one.half()
        check_finite(result.model)
        save_checkpoint(folder, result.model, loaded.tokenizer)
        record = Record(
            operation=operation,
            model=name,
            replacements=result.replacements,
            choice=None if choice is None else asdict(choice),
            moments=result.source,
            same_cut=None if operation != "drop" else _same_cut(name, loaded, result),
            versions=versions(),
            **sizes(decoder, find_decoder(result.model)),
        )
        record.save(folder, becomes=out)
    return Cut(Path(out), record)


def replaced(
    model: PreTrainedModel,
    source: MapMoments,
    maps: Mapping[Unit, FittedMap],
    fusions: Mapping[Span, Fusion] | None = None,
    reasons: Mapping[Span, str] | None = None,
) -> Result:
    """Fuse some spans, put maps in the place of other units, and note which block stands for which.

    Without fusions the result has the model's own tensors, which neither may change then.
    """
    fusions, reasons = fusions or {}, reasons or {}
    gone = indices(fusions)
    cut = fuse(model, fusions) if fusions else model
    if maps:
        renamed = {unit: Span(*(after(i, gone) for i in unit.span)) for unit in maps}
        named = {Unit(renamed[unit], unit.part): fitted for unit, fitted in maps.items()}
        cut = replace_units(cut, named, share=True)
    gone += [index for unit in maps for index in unit.span.blocks if index != unit.span.first]
    projection = find_projection(find_decoder(model)) if fusions else ""
    replacements = []
    for unit in sorted([*map(Unit, fusions), *maps]):
        fusion = fusions.get(unit.span) if unit not in maps else None
        index = after(unit.span.first, gone) - (fusion is not None)
        form: Form = "linear" if fusion is None else "fused"
        fitted = maps[unit] if fusion is None else fusion.fitted
        names = parameter_names(cut, index, stand_in_path(cut, index, unit) if fusion is None else projection)
        fit = described(fitted, None if fusion is None else fusion.on)
        replacements.append(Replacement(str(unit), form, index, names, fit, reasons.get(unit.span)))
    return Result(cut, replacements, source.origin)


def read_ridge(text: str | None) -> float | Literal["auto"] | None:
    """Read a ridge: auto, or λ; 0 for none.

    Raises:
        LinscoreError: for anything else.
    """
    if text is None or text == "auto":
        return "auto"
    try:
        return float(text) or None
    except ValueError as error:
        raise LinscoreError(f"`ridge={text}` is no number: give auto, 0 for none, or a number above 0") from error


def _same_cut(name: str, loaded: Pretrained, result: Result) -> SameCut | None:
    units = [Unit.parse(one.span) for one in result.replacements]
    if any(unit.part for unit in units):
        return None
    gone = indices(unit.span for unit in units)
    depth, dtype = len(loaded.decoder.blocks), result.model.dtype
    return same_cut(name, gone, depth, dtype, loaded.model.config, result.model.config)


def _warn(replacements: Sequence[Replacement], say: Say) -> None:
    """Point out maps that are worse than dropping the block, or than the mean of what it adds."""
    for one in replacements:
        fit = one.fit or {}
        missed, dropped = fit.get("error_heldout"), fit.get("error_dropped")
        if missed is None or dropped is None:
            continue
        found = f"warning: on unseen text the map for block {one.span} misses {missed:.1%}"
        if missed >= dropped:
            say(f"{found}, dropping it {dropped:.1%}: prune it, or give more text")
        elif missed >= 1 and fit.get("kind") != "mean":
            say(f"{found}, the mean of what it adds 100%: linearize it by the mean, or give more text")


def check_finite(model: PreTrainedModel) -> None:
    """Raises LinscoreError for weights that are NaN, or beyond 16 bits."""
    spoilt = next((name for name, parameter in model.named_parameters() if not parameter.isfinite().all()), None)
    if spoilt is not None:
        raise LinscoreError(f"{spoilt} would not be finite: give `dtype=float32`, or check the model's weights")


def stand_in_path(model: PreTrainedModel, index: int, unit: Unit) -> str:
    """Where in its block the map of a unit is."""
    block: Any = find_decoder(model).blocks[index]
    return block.parts[unit.part] if unit.part else ""


def parameter_names(model: PreTrainedModel, index: int, path: str) -> list[str]:
    """Names of the parameters of a block, or of a module inside it, in the whole model."""
    inside = {id(parameter) for parameter in find_decoder(model).blocks[index].get_submodule(path).parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in inside]


def described(fitted: FittedMap, on: str | None) -> dict[str, Any]:
    """How a map was fitted, for the record."""
    form = {"kind": fitted.kind, "rank": fitted.rank} if on is None else {"on": on}
    errors = {name: getattr(fitted, name) for name in ("error", "error_heldout", "error_dropped")}
    return {**form, "ridge": fitted.ridge, **errors}
