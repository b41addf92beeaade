"""The job of `linscore score`: from names and paths to a saved report."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path

from linscore.embedded.shipped import EMBEDDED
from linscore.errors import LinscoreError
from linscore.files.lock import alone_in
from linscore.files.parts import remove_leftovers
from linscore.files.places import within
from linscore.jobs.score_place import Former, default_folder
from linscore.models.load import Pretrained, load_pretrained
from linscore.options import PlaceOptions, SaveOptions, ScoreOptions, SelectOptions, TextOptions
from linscore.progress import TokenProgress
from linscore.scoring.report import MOMENTS, REPORT, Report, ScoreWarning
from linscore.scoring.score import score
from linscore.spans import Span, parse_blocks, runs
from linscore.text.source import Text
from linscore.text.tokens import OddTokens

MOST = 0.5  # of the tokens: above, the tokenizer was made for other text

COLLECT_FOR = ("spans", "fuse", "fuse-output")


def run_score(
    model: str = EMBEDDED,
    *,
    text: TextOptions | None = None,
    place: PlaceOptions | None = None,
    scoring: ScoreOptions | None = None,
    selected: SelectOptions | None = None,
    saving: SaveOptions | None = None,
    out: str | None = None,
) -> tuple[Report, tuple[Path, Path]]:
    """Score `model` on a text or dataset and save the result to `out`, by default `scores/MODEL`.

    Another result of the same model on the same text is replaced there; by default `scores/PARENT-MODEL` is taken where
    a model of the same name lies in `scores/MODEL`.

    `selected.collect_for` is a comma list of `COLLECT_FOR`: spans are those of its lengths within the blocks, fuse and
    fuse-output take every block and every such span but those that begin with block 0.

    Returns:
        The report, and the paths of `report.json` and `moments.safetensors`.

    Raises:
        LinscoreError: for any input that cannot be used, when `out` holds the result of another model or text and
            `saving.overwrite` is not set, or another process works there; what stood there before stays as it was.
    """
    place, scoring, read = place or PlaceOptions(), scoring or ScoreOptions(), Text(text or TextOptions())
    chosen = _Selection(selected or SelectOptions())
    read.source.check()
    with alone_in(out or default_folder(model)) as folder:
        former = Former(folder) if saving is None or not saving.overwrite else None
        if former is not None:
            former.check_names(model, str(read))
        loaded = load_pretrained(model, **asdict(place))
        if former is not None:
            former.check_weights(loaded.decoder, model)
        report = _scored(loaded, read, scoring, chosen)
        paths = report.save(folder)
        remove_leftovers(folder, REPORT, MOMENTS)
    return report, paths


def _scored(loaded: Pretrained, read: Text, scoring: ScoreOptions, chosen: _Selection) -> Report:
    """The report, with the doubts about the text among its warnings."""
    doubts: list[str] = []
    odd = OddTokens(loaded.tokenizer)
    about = (loaded.tokenizer, loaded.context, loaded.model.device)
    batches = odd.watch(read.batches(*about, folds=scoring.folds, say=doubts.append))
    special = loaded.tokenizer.all_special_ids if chosen.skip_special else ()
    options = chosen.among(len(loaded.decoder.blocks), replace(scoring, skip_tokens=special))
    with TokenProgress(read.expected_tokens(loaded.tokenizer), "scoring") as progress:
        report = score(loaded.model, batches, options, name=loaded.name, text=str(read), progress=progress.advance)
    doubts = [within(line, str(read)) for line in doubts]  # they go where others see them
    if odd.share > MOST:
        doubts.append(f"{odd.share:.0%} of the tokens are unknown or single bytes: another model's text or tokenizer")
    return replace(report, warnings=[*report.warnings, *(ScoreWarning("text", line) for line in doubts)])


class _Selection:
    """Blocks and spans in words, read before a model is loaded."""

    def __init__(self, selected: SelectOptions) -> None:
        self.skip_special = selected.skip_special
        self.blocks = None if selected.blocks is None else _blocks(selected.blocks)
        self.purposes = _purposes(selected.collect_for)
        self.lengths = _lengths(selected.span_lengths)

    def among(self, depth: int, options: ScoreOptions) -> ScoreOptions:
        """The options with what these words mean in a decoder of `depth` blocks.

        Raises:
            LinscoreError: where there are no such spans.
        """
        blocks = range(depth) if self.blocks is None else self.blocks
        spans = _spans(self.lengths, blocks) if "spans" in self.purposes else []
        if "spans" in self.purposes and not spans:
            lengths, where = (", ".join(map(str, found)) for found in (self.lengths, runs(blocks)))
            raise LinscoreError(
                f"no spans of {lengths} blocks in blocks {where}: give other `span_lengths` or `blocks`"
            )
        single = [Span(index, index) for index in sorted(set(blocks))]
        fused = [span for span in [*single, *spans] if span.first > 0]
        if self.purposes & {"fuse", "fuse-output"} and not fused:
            raise LinscoreError("block 0 has no MLP before it that a map could be fused into: give other `blocks`")
        return replace(
            options,
            blocks=self.blocks,
            spans=spans,
            fuse=fused if "fuse" in self.purposes else (),
            fuse_output=fused if "fuse-output" in self.purposes else (),
        )


def _blocks(text: str) -> list[int]:
    try:
        return parse_blocks(text)
    except LinscoreError:
        raise LinscoreError(f"`blocks={text}` is no list of blocks: write it like 0-5,7") from None


def _lengths(text: str) -> list[int]:
    try:
        lengths = parse_blocks(text)
    except LinscoreError:
        lengths = []
    if not lengths or min(lengths) < 2:
        raise LinscoreError(f"`span_lengths` is {text!r}: give lengths of 2 blocks or more, like 2 or 2-4 or 2,4")
    return lengths


def _purposes(collect_for: str | None) -> set[str]:
    """What else the pass collects for: some of `COLLECT_FOR`."""
    purposes = set() if collect_for is None else {word.strip() for word in collect_for.split(",")}
    unknown = sorted(purposes - set(COLLECT_FOR))
    if unknown:
        raise LinscoreError(f"`collect_for={unknown[0]}` is unknown: give a comma list out of {', '.join(COLLECT_FOR)}")
    return purposes


def _spans(lengths: Collection[int], blocks: Collection[int]) -> list[Span]:
    """All spans of some lengths that lie within some blocks."""
    candidates = {Span(first, first + length - 1) for first in blocks for length in lengths}
    return sorted(span for span in candidates if set(span.blocks) <= set(blocks))
