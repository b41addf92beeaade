"""The main job: a decoder and batches of tokens in, a `Report` out."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable

from torch import nn

from linscore.decoder.find import find_decoder, weight_sample
from linscore.decoder.run import check_causal
from linscore.decoder.sub_blocks import find_sub_blocks
from linscore.errors import LinscoreError
from linscore.machine.versions import versions
from linscore.scoring.collect import Batch, Collector
from linscore.scoring.report import BlockReport, Report, SpanReport
from linscore.scoring.warnings import find_warnings
from linscore.spans import Span
from linscore.statistics.centered import centered
from linscore.statistics.figures import BlockMetrics, block_metrics, state_metrics
from linscore.statistics.moments import Moments


def score(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    folds: int = 2,
    blocks: Collection[int] | None = None,
    sub_blocks: bool = False,
    spans: Collection[Span] = (),
    fuse: Collection[Span] = (),
    fuse_output: Collection[Span] = (),
    skip_first: int = 0,
    skip_tokens: Collection[int] = (),
    precision: str = "fast",
    backend: str | None = None,
    spectra: bool | None = None,
    name: str | None = None,
    text: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Score every block of a decoder in one streaming pass (paper: section 3.1).

    Args:
        model: any Hugging Face decoder, or a module whose blocks are one ModuleList of like modules.
        batches: token ids `[B, T]` each, or dicts with `input_ids` and, where wanted, `attention_mask` `[B, T]` and
            `folds` `[B]`; without folds the sequences are dealt in runs, by their place in the stream.
        folds: cross-validation folds; 1 leaves the held-out figures empty.
        blocks: indices of the blocks to score; all by default.
        sub_blocks: score attention and MLP apart too.
        spans: several consecutive blocks, each scored as one map; they may reach beyond `blocks`.
        fuse: spans to collect moments for, such that their map can be fused into the MLP projection before them: from
            its p inputs, 8·p·(p + d) bytes a span and fold.
        fuse_output: the same from the projection's d outputs, 16·d² bytes a span and fold.
        skip_first: positions at the start of each sequence that do not count.
        skip_tokens: token ids whose positions do not count, such as the special ones.
        precision: "fast" or "exact" (see `Moments`).
        backend: "triton" or "eager"; by default $LINSCORE_BACKEND, else what fits the device.
        spectra: whether to take eigenvalues and nuclear norms (anisotropy, effective rank, Procrustes), about 5d³ a
            block; by default unless they would cost more than the pass over the text.
        name: what the report calls the model.
        text: what the report calls the text.
        progress: called after each batch with the number of tokens that counted.

    Raises:
        LinscoreError: when the model is no such decoder, it cannot be fused, or the batches cannot be used.
    """
    decoder = find_decoder(model)
    check_causal(decoder)
    collector = Collector(
        decoder,
        folds=folds,
        blocks=blocks,
        sub_blocks=find_sub_blocks(decoder) if sub_blocks else None,
        spans=spans,
        fuse=fuse,
        fuse_output=fuse_output,
        skip_first=skip_first,
        skip_tokens=skip_tokens,
        precision=precision,
        backend=backend,
    )
    started = time.perf_counter()
    for batch in batches:
        tokens = collector.add(batch)
        if progress is not None:
            progress(tokens)
    if not collector.moments:
        raise LinscoreError("there was no batch to score: give at least one")
    return _report(collector, name or decoder.name, text, spectra, time.perf_counter() - started)


def _report(collector: Collector, name: str, text: str | None, spectra: bool | None, seconds: float) -> Report:
    """Solve for every block, and say what should be doubted."""
    started = time.perf_counter()
    moments = collector.moments
    first = moments[f"block.{collector.indices[0]}"]
    if spectra is None:
        spectra = _spectra_are_cheap(first, collector.tokens)
    blocks = [_block_report(moments, index, spectra) for index in collector.indices]
    spans = [_span_report(moments, span, spectra) for span in sorted(collector.spans.spans)]
    final = moments.get(f"state.{len(collector.decoder.blocks)}")
    final_state = None if final is None else _final_state(final, spectra)
    return Report(
        model=name,
        text=text,
        tokens=collector.tokens - collector.nonfinite_rows,
        backend=first.backend,
        precision=collector.precision,
        folds=collector.folds,
        dtype=_dtype(collector),
        device=str(first.device),
        depth=len(collector.decoder.blocks),
        width=first.d,
        skip_first=collector.skip_first,
        weight_sample=weight_sample(collector.decoder),
        nonfinite_rows=collector.nonfinite_rows,
        spread=_spread_name(collector.folds),
        seconds={"collect": round(seconds, 3), "solve": round(time.perf_counter() - started, 3)},
        versions=versions(),
        warnings=find_warnings(
            blocks, spans, width=first.d, folds=collector.folds, nonfinite_rows=collector.nonfinite_rows
        ),
        blocks=blocks,
        spans=spans,
        final_state=final_state,
        moments=moments,
    )


def _spectra_are_cheap(moments: Moments, tokens: int) -> bool:
    """Whether eigenvalues cost little beside the pass over the text.

    5d³ against some 27d² FLOP a token; eigenvalues run at a few per cent of a GPU's matrix rate (an estimate).
    """
    return moments.d <= 1024 or tokens >= (512 if moments.device.type == "cuda" else 4) * moments.d


def _block_report(moments: dict[str, Moments], index: int, spectra: bool) -> BlockReport:
    apart: dict[str, BlockMetrics] = {
        part: block_metrics(moments[f"block.{index}.{part}"], spectra=spectra)
        for part in ("attention", "mlp")
        if f"block.{index}.{part}" in moments
    }
    figures = block_metrics(moments[f"block.{index}"], after=_after(moments, index), spectra=spectra)
    return BlockReport(**vars(figures), index=index, sub_blocks=apart or None)


def _span_report(moments: dict[str, Moments], span: Span, spectra: bool) -> SpanReport:
    figures = block_metrics(moments[f"span.{span}"], after=_after(moments, span.last), spectra=spectra)
    return SpanReport(**vars(figures), first=span.first, last=span.last)


def _after(moments: dict[str, Moments], index: int) -> Moments | None:
    """Moments that begin with what leaves block `index`; none where a span ends outside the scored blocks."""
    return moments.get(f"block.{index + 1}") or moments.get(f"state.{index + 1}")


def _final_state(final: Moments, spectra: bool) -> dict[str, float | None]:
    """The shape of what leaves the last block, before the final norm."""
    shape = state_metrics(centered(final, range(final.folds)).c_xx, spectra=spectra)
    return {"norm": final.total().mean("norm_x"), **vars(shape)}


def _spread_name(folds: int) -> str | None:
    return {1: None, 2: "difference between the 2 folds"}.get(folds, f"standard deviation over the {folds} folds")


def _dtype(collector: Collector) -> str:
    return str(next(collector.decoder.blocks.parameters()).dtype).removeprefix("torch.")
