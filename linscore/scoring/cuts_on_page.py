"""Cuts on a page: what each block is predicted to cost, the commands that cut it, and what cut models have left."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from linscore.options.cut import BY
from linscore.pages.cut_rows import gone
from linscore.pages.page import BLOCKS, Column, Cut, Line, Section, Table
from linscore.pages.rows import labels
from linscore.pages.words import FIGURES
from linscore.scoring.ranking import EXPECTED, default_by, lowest_first, ranked
from linscore.scoring.report import BlockReport, Report

PART = 5  # of the depth, that is ticked to begin with
SUMS = {
    "parameters": "{some} of {all} parameters in blocks",
    "kv_bytes": "{some} of {all} bytes a token in the cache",
    EXPECTED: "{some} nats a token expected, each block by itself",
}
HOLDS = ("parameters", "kv_bytes")


def ranking_section(reports: Sequence[Report], names: Sequence[str], folders: Sequence[str] | None) -> Section:
    """The blocks of every report, what looks easiest to do without first, to be ticked and cut.

    Args:
        reports: one at least.
        names: what each is called.
        folders: where each lies; None: in no folder yet.
    """
    defaults = {default_by(report) for report in reports}
    by = defaults.pop() if len(defaults) == 1 else BY
    note = (
        f"By {FIGURES[by][0]}, {'lowest' if lowest_first(by) else 'highest'} first: {FIGURES[by][1]}. Tick what is to "
        "go, and copy the line for the tool that cuts it; what it costs is measured by linscore rank with a text."
    )
    places = folders or ["DIR"] * len(reports)
    cuts = [_cut(report, name, by, place) for report, name, place in zip(reports, names, places, strict=True)]
    return Section("ranking", "What is easiest to do without", note, cuts=cuts)


def _cut(report: Report, name: str, by: str, folder: str) -> Cut:
    order = ranked(report, by, 1)
    own = {block.span: block for block in report.blocks}
    blocks = [own[span] for span in order]
    largest = max(map(abs, order.values())) or 1.0
    held = [key for key in HOLDS if any(getattr(block, key) is not None for block in blocks)]
    rows = [
        [nth, str(span), value, abs(value) / largest, *(getattr(own[span], key) for key in held)]
        for nth, (span, value) in enumerate(order.items(), 1)
    ]
    columns = [Column("rank"), Column("block"), Column(*FIGURES[by]), Column("of the largest", bar=True)]
    columns += [Column(*FIGURES[key]) for key in held]
    unknown = "" if held else "; what they hold is not in this report: score the model again"
    return Cut(
        table=Table(f"Blocks of {name} by {FIGURES[by][0]}{unknown}", columns, rows),
        picked=max(1, report.depth // PART),
        lines=_lines(report, folder),
        blocks=[block.index for block in blocks],
        sums=_sums(blocks),
    )


def _sums(blocks: Sequence[BlockReport]) -> Mapping[str, list[float]]:
    """What adds up over blocks, of those figures that all have."""
    columns = {words: [getattr(block, key) for block in blocks] for key, words in SUMS.items()}
    return {words: column for words, column in columns.items() if None not in column}


def _lines(report: Report, folder: str) -> list[Line]:
    """Commands that drop blocks, here and by other tools."""
    rank = f"linscore rank {shlex.quote(folder)} --drop {BLOCKS} --format"
    return [
        Line("linscore", f"linscore prune {shlex.quote(report.model)} --drop {BLOCKS} --out cut"),
        Line("mergekit", f"{rank} mergekit > cut.yml && mergekit-yaml cut.yml cut"),
        Line("llama.cpp", f"{rank} llama.cpp"),
    ]


def left_table(cuts: Mapping[str, Mapping[str, Any]]) -> Table:
    """What is left of each model; the arguments are those of `page_of`."""
    rows = [_left(name, cut) for name, cut in zip(labels(list(cuts)), cuts.values(), strict=True)]
    headings = ("model", "made by", "blocks", "parameters", "parameters gone", "cache gone", "FLOP gone")
    columns = [Column(heading, left=heading in ("model", "made by")) for heading in headings]
    return Table("What is left of each", columns, rows)


def _left(name: str, cut: Mapping[str, Any]) -> list[Any]:
    record = cut["record"]
    shares = gone(record) | {"flops": 1 - record["flops_per_token"] / max(record["flops_per_token_before"], 1)}
    made = record["operation"] + (", then distil" if record["distilled"] else "")
    told = [None if share is None else f"{share:.1%}" for share in shares.values()]
    return [name, made, f"{record['depth']} of {record['depth_before']}", record["parameters"], *told]
