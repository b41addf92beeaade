"""The job of `linscore score`: from names and paths to a saved report."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain
from pathlib import Path

from linscore.decoder.find import find_decoder
from linscore.embedded.shipped import EMBEDDED
from linscore.errors import LinscoreError
from linscore.files import prepare_folder
from linscore.models.load import load_pretrained
from linscore.progress import TokenProgress
from linscore.scoring.report import Report
from linscore.scoring.score import score
from linscore.spans import Span, runs
from linscore.text.source import Text

COLLECT_FOR = ("spans", "fuse", "fuse-output")


def run_score(
    model: str = EMBEDDED,
    *,
    text: str | None = None,
    dataset: str | None = None,
    tokens: int | None = None,
    seq_len: int | None = None,
    batch_size: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    folds: int = 2,
    skip_first: int = 0,
    skip_special: bool = False,
    precision: str = "fast",
    blocks: str | None = None,
    sub_blocks: bool = False,
    collect_for: str | None = None,
    span_lengths: str = "2",
    out: str | None = None,
) -> tuple[Report, tuple[Path, Path]]:
    """Score `model` on a text or dataset and save the result; the arguments are the options of `linscore score`.

    `collect_for` is its --for, a comma list of `COLLECT_FOR`: spans are those of `span_lengths` within the blocks,
    fuse and fuse-output take every block and every such span but those that begin with block 0.

    Returns:
        The report, and the paths of `report.json` and `moments.safetensors`.

    Raises:
        LinscoreError: for any input that cannot be used; what stood in `out` before stays as it was.
    """
    chosen = None if blocks is None else parse_blocks(blocks)
    purposes, lengths = _purposes(collect_for), _lengths(span_lengths)
    source = Text(text, dataset, tokens)
    source.check()
    folder = prepare_folder(out or f"scores/{Path(model).name}")
    loaded = load_pretrained(model, dtype=dtype, device=device)
    batches = source.batches(loaded, seq_len=seq_len, batch_size=batch_size, folds=folds)
    depth = len(find_decoder(loaded.model).blocks)
    spans, fuse, fuse_output = _collected(purposes, lengths, range(depth) if chosen is None else chosen)
    with TokenProgress(source.expected_tokens(loaded.tokenizer), "scoring") as progress:
        report = score(
            loaded.model,
            batches,
            folds=folds,
            blocks=chosen,
            sub_blocks=sub_blocks,
            spans=spans,
            fuse=fuse,
            fuse_output=fuse_output,
            skip_first=skip_first,
            skip_tokens=loaded.tokenizer.all_special_ids if skip_special else (),
            precision=precision,
            name=loaded.name,
            text=str(source),
            progress=progress.advance,
        )
    return report, report.save(folder)


def parse_blocks(blocks: str) -> list[int]:
    """Read a list of blocks: "0-2,7" is [0, 1, 2, 7]."""
    try:
        return _numbers(blocks)
    except LinscoreError:
        raise LinscoreError(f"--blocks {blocks!r} is no list of blocks: write it like 0-5,7") from None


def _numbers(text: str) -> list[int]:
    return list(chain.from_iterable(Span.parse(part).blocks for part in text.split(",")))


def _lengths(text: str) -> list[int]:
    try:
        lengths = _numbers(text)
    except LinscoreError:
        lengths = []
    if not lengths or min(lengths) < 2:
        raise LinscoreError(f"--span-lengths is {text!r}: give lengths of 2 blocks or more, like 2 or 2-4 or 2,4")
    return lengths


def _purposes(collect_for: str | None) -> set[str]:
    """What else the pass collects for: some of `COLLECT_FOR`."""
    purposes = set() if collect_for is None else {word.strip() for word in collect_for.split(",")}
    unknown = sorted(purposes - set(COLLECT_FOR))
    if unknown:
        raise LinscoreError(f"--for {unknown[0]!r} is unknown: give a comma list out of {', '.join(COLLECT_FOR)}")
    return purposes


def _collected(
    purposes: set[str], lengths: Collection[int], blocks: Collection[int]
) -> tuple[list[Span], list[Span], list[Span]]:
    """The spans to score, to fuse, and to fuse from the output, within some blocks.

    Raises:
        LinscoreError: where there are none.
    """
    spans = _spans(lengths, blocks) if "spans" in purposes else []
    if "spans" in purposes and not spans:
        raise LinscoreError(
            f"no spans of {', '.join(map(str, lengths))} blocks in blocks {', '.join(map(str, runs(blocks)))}: give "
            "other --span-lengths or --blocks"
        )
    fused = [span for span in [*(Span(index, index) for index in sorted(set(blocks))), *spans] if span.first > 0]
    if purposes & {"fuse", "fuse-output"} and not fused:
        raise LinscoreError("block 0 has no MLP before it that a map could be fused into: give other --blocks")
    return spans, fused if "fuse" in purposes else [], fused if "fuse-output" in purposes else []


def _spans(lengths: Collection[int], blocks: Collection[int]) -> list[Span]:
    """All spans of some lengths that lie within some blocks."""
    candidates = {Span(first, first + length - 1) for first in blocks for length in lengths}
    return sorted(span for span in candidates if set(span.blocks) <= set(blocks))
