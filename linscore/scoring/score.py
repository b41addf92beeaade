"""The main job: a decoder and batches of tokens in, a `Report` out."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from linscore.decoder.find import Decoder, find_decoder
from linscore.decoder.in_use import in_use
from linscore.decoder.run import check_causal
from linscore.decoder.sub_blocks import cross_attention
from linscore.errors import LinscoreError
from linscore.files.lock import alone_in
from linscore.files.run_folder import RunFolder
from linscore.machine.allocator import giving_back
from linscore.machine.processes import ALONE, Processes
from linscore.machine.versions import versions
from linscore.options.place import KeepOptions
from linscore.options.score import ScoreOptions
from linscore.scoring.collect import Collector
from linscore.scoring.expected import expected_figures
from linscore.scoring.holds import kept_in_cache, with_holds
from linscore.scoring.kept import KEPT, Kept, Settings, begin, check_begin, keeping
from linscore.scoring.names import MomentsName
from linscore.scoring.one_pass import OnePass
from linscore.scoring.report import BlockReport, Report, SpanReport
from linscore.scoring.sensitivity import take_gradients
from linscore.scoring.streamed import Streamed
from linscore.scoring.warnings import find_warnings, misfit_warnings, unstable_warning
from linscore.spans import PARTS, Span, Unit
from linscore.statistics.centered import centered
from linscore.statistics.figures import BlockMetrics, Linearity, block_metrics, state_metrics
from linscore.statistics.moments import Moments
from linscore.statistics.placed import Placed, where_to_solve
from linscore.text.batch import Batch

Figures = TypeVar("Figures", bound=Linearity)


def score(
    model: nn.Module,
    batches: Iterable[Batch],
    options: ScoreOptions | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    keep: KeepOptions | None = None,
    spectra: bool | None = None,
    name: str | None = None,
    text: str | None = None,
    progress: Callable[[int], None] | None = None,
    **changes: Any,
) -> Report:
    """Score every block of a decoder in one streaming pass (paper: section 3.1).

        linscore.score(model, batches, folds=4, skip_first=1, spans=[linscore.Span(3, 5)])

    Args:
        model: any Hugging Face decoder, or a module whose blocks are one ModuleList.
        batches: token ids `[B, T]` each, or dicts with `input_ids` and, where wanted, `attention_mask` `[B, T]` and
            `folds` `[B]`; without folds the sequences are dealt in runs, by their place in the stream.
        options: what is scored, and how.
        out: a folder where the report is saved at the end, and until then what is collected, now and then.
        resume: go on with the run in `out` that was interrupted; its batches are given from the first one again, and
            those that it has had are read, but not run.
        keep: when the run is saved.
        spectra: whether to take eigenvalues and nuclear norms (anisotropy, effective rank, Procrustes), about 5d³ a
            block; by default unless they would cost more than the pass over the text.
        name: what the report calls the model.
        text: what the report calls the text.
        progress: called after each batch with the number of tokens that counted.
        changes: fields of `ScoreOptions`, in place of those of `options`: folds, skip_first, precision, sub_blocks,
            until_stable, sensitivity, encoder, blocks, spans, fuse, fuse_output, skip_tokens, backend.

    Raises:
        LinscoreError: when the model is no such decoder, another score of it is under way, it cannot be fused, the
            batches cannot be used, or `out` holds a run that is not to be gone on with, or cannot be.
        Interrupted: by Ctrl-C, where there is a run to go on with.

    Examples:
        >>> report = linscore.score(model, batches, spans=[linscore.Span(3, 5)], skip_first=1)
        >>> len(report.blocks), len(report.spans), report.tokens
        (6, 1, 496)
    """
    decoder, options = find_decoder(model), replace(options or ScoreOptions(), **changes)
    about: dict[str, Any] = {"spectra": spectra, "name": name, "text": text, "progress": progress}
    if out is not None:
        return _score_to(Path(out), decoder, batches, options, resume=resume, keep=keep, **about)
    if resume:
        raise LinscoreError("`resume` is given, and no folder that holds a run: give `out`")
    return score_decoder(decoder, batches, options, **about)


def _score_to(
    out: Path,
    decoder: Decoder,
    batches: Iterable[Batch],
    options: ScoreOptions,
    *,
    resume: bool,
    keep: KeepOptions | None,
    **about: Any,
) -> Report:
    settings = Settings.of(about["name"] or decoder.name, options)
    with alone_in(out) as folder, RunFolder(folder / KEPT, settings, places=("model",)) as run:
        if resume:
            run.resume(Settings)
        else:
            check_begin(run)
            begin(run)
        with keeping(run, keep) as kept:
            report = score_decoder(decoder, batches, options, kept=kept, **about)
            report.save(folder)
    return report


def score_decoder(
    decoder: Decoder,
    batches: Iterable[Batch],
    options: ScoreOptions,
    *,
    kept: Kept | None = None,
    spectra: bool | None = None,
    name: str | None = None,
    text: str | None = None,
    progress: Callable[[int], None] | None = None,
    streamed: Streamed | None = None,
    processes: Processes = ALONE,
) -> Report:
    """The same for a decoder that was found already, `kept` while it lasts.

    `streamed` runs it where its blocks come one at a time. Several `processes` share batches and blocks; each gets the
    whole report, and the first keeps the run.
    """
    if not isinstance(batches, Iterable):
        raise LinscoreError(f"`batches` is of type {type(batches).__name__}: give a list of batches, or an iterator")
    with in_use(decoder, scored=True):
        collector = Collector(decoder, options, streamed)
        if streamed is None:
            check_causal(decoder, encoder=options.encoder)
        kv_bytes = kept_in_cache(decoder, collector.way)
        gradients, batches = take_gradients(collector, batches)
        done = OnePass(collector, kept, processes)
        done.run(batches, progress)
    if not collector.moments:
        raise LinscoreError("there was no batch to score: give at least one")
    collector.moments |= gradients.moments
    report = report_of(collector, name or decoder.name, text, spectra, done.seconds, kv_bytes, processes)
    fits, stable = done.first_loss, done.looks.stable
    curve = done.looks.ending_with(report.tokens, report.blocks)
    doubts = [*report.warnings, *misfit_warnings(fits)]
    if options.until_stable is not None and not stable:
        doubts.append(unstable_warning(curve[-1].spread, options.until_stable))
    return replace(
        report,
        tokens_digest=str(done.digest),
        sensitivity_tokens=gradients.tokens or None,
        loss=fits and fits.loss,
        curve=curve,
        stable_tokens=report.tokens if stable else None,
        warnings=doubts,
    )


@giving_back()
def report_of(
    collector: Collector,
    name: str,
    text: str | None,
    spectra: bool | None,
    seconds: float,
    kv_bytes: Mapping[int, int],
    processes: Processes = ALONE,
) -> Report:
    """Solve for every block, and say what should be doubted; collecting has taken so many seconds.

    `kv_bytes` is what `kept_in_cache` gives. Several processes, which hold the same sums, share the blocks.
    """
    started = time.perf_counter()
    as_run = collector.way.to_solve(collector.moments)
    first = as_run[str(MomentsName.block(collector.indices[0]))]
    moments = Placed(as_run, where_to_solve)
    if spectra is None:
        spectra = _spectra_are_cheap(first.d, where_to_solve(first.device), collector.tokens)
    blocks = processes.each([partial(_block_report, moments, index, spectra) for index in collector.indices])
    spans = processes.each([partial(_span_report, moments, span, spectra) for span in sorted(collector.spans.spans)])
    final = moments.get(str(MomentsName.state(len(collector.decoder.blocks))))
    final_state = None if final is None else _final_state(final, spectra)
    return Report(
        run=secrets.token_hex(8),
        model=name,
        text=text,
        **_facts(collector, first),
        seconds={"collect": round(seconds, 3), "solve": round(time.perf_counter() - started, 3)},
        warnings=find_warnings(
            blocks,
            spans,
            width=first.d,
            folds=first.folds,
            nonfinite_rows=collector.nonfinite_rows,
            skipped=cross_attention(collector.decoder),
            encoder=collector.options.encoder,
        ),
        blocks=with_holds([_finite(block) for block in blocks], collector.decoder, kv_bytes),
        spans=[_finite(span) for span in spans],
        final_state=final_state,
        moments=collector.moments,
    )


def _facts(collector: Collector, first: Moments) -> dict[str, Any]:
    """What was run on what, by the names that `Report` has for it."""
    blocks = collector.decoder.blocks
    dtypes = (parameter.dtype for parameter in blocks.parameters())  # those of quantized weights are whole numbers
    return {
        "tokens": collector.tokens - collector.nonfinite_rows,
        "backend": first.backend,
        "precision": first.precision,
        "folds": first.folds,
        "dtype": str(next(dtype for dtype in dtypes if dtype.is_floating_point)).removeprefix("torch."),
        "device": str(first.device),
        "depth": len(blocks),
        "width": first.d,
        "skip_first": collector.options.skip_first,
        "weight_sample": collector.way.weight_sample,
        "nonfinite_rows": collector.nonfinite_rows,
        "spread": _spread_name(first.folds),
        "versions": versions(),
    }


def _spectra_are_cheap(d: int, device: torch.device, tokens: int) -> bool:
    """Whether eigenvalues cost little beside the pass over the text.

    5d³ against some 27d² FLOP a token; eigenvalues run at a few per cent of a GPU's matrix rate (an estimate).
    """
    return d <= 1024 or tokens >= (512 if device.type == "cuda" else 4) * d


def _block_report(moments: Mapping[str, Moments], index: int, spectra: bool) -> BlockReport:
    apart: dict[str, BlockMetrics] = {
        part: _metrics(moments, Unit(Span(index, index), part), spectra)
        for part in PARTS
        if str(MomentsName.block(index, part)) in moments
    }
    figures = _metrics(moments, Unit(Span(index, index)), spectra)
    return BlockReport(**vars(figures), index=index, sub_blocks=apart or None)


def _span_report(moments: Mapping[str, Moments], span: Span, spectra: bool) -> SpanReport:
    return SpanReport(**vars(_metrics(moments, Unit(span), spectra)), first=span.first, last=span.last)


def _metrics(moments: Mapping[str, Moments], unit: Unit, spectra: bool) -> BlockMetrics:
    after = None if unit.part else _after(moments, unit.span.last)
    figures = block_metrics(moments[str(MomentsName.of(unit))], after=after, spectra=spectra)
    return replace(figures, **expected_figures(moments, unit))


def _after(moments: Mapping[str, Moments], index: int) -> Moments | None:
    """Moments that begin with what leaves block `index`; none where a span ends outside the scored blocks."""
    names = (MomentsName.block(index + 1), MomentsName.state(index + 1))
    return next((moments[str(name)] for name in names if str(name) in moments), None)


def _finite(figures: Figures) -> Figures:
    """The same, with None for what is not finite; `find_warnings` has seen it before."""
    return replace(figures, **{name: _finite_value(value) for name, value in vars(figures).items()})


def _finite_value(value: Any) -> Any:
    if isinstance(value, Linearity):
        return _finite(value)
    if isinstance(value, dict):
        return {name: _finite_value(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _final_state(final: Moments, spectra: bool) -> dict[str, float | None]:
    """The shape of what leaves the last block, before the final norm."""
    shape = state_metrics(centered(final, range(final.folds)).c_xx, spectra=spectra)
    return {"norm": final.total().mean("norm_x"), **vars(shape)}


def _spread_name(folds: int) -> str | None:
    return {1: None, 2: "difference between the 2 folds"}.get(folds, f"standard deviation over the {folds} folds")
