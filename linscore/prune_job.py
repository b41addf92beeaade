"""The job of `linscore prune`: from names and paths to a saved model with fewer blocks."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from linscore.decoders import Decoder, find_decoder
from linscore.errors import LinscoreError
from linscore.job import parse_blocks
from linscore.pretrained import load_pretrained
from linscore.rank import rank
from linscore.report import Report
from linscore.score import versions
from linscore.surgery.checkpoint import new_folder, save_checkpoint
from linscore.surgery.drop import drop

BY = "linearity_heldout"


@dataclass(frozen=True)
class Choice:
    """Blocks that go: named by hand (`by` None), or the first of a ranking, with what put them there.

    Attributes:
        blocks: their indices, in the order of the ranking.
        by: the metric of the ranking.
        figures: that metric of each of them.
        scored: model, text and tokens that the figures come from.
    """

    blocks: list[int]
    by: str | None = None
    figures: dict[int, float] | None = None
    scored: dict[str, str | int | None] | None = None

    def __str__(self) -> str:
        if not self.figures:
            return f"blocks {', '.join(map(str, self.blocks))}"
        return f"by {self.by}: " + ", ".join(f"block {index} ({self.figures[index]:.4f})" for index in self.blocks)


@dataclass(frozen=True)
class Pruned:
    """What `linscore prune` did; but for `out`, it is what `linscore.json` says."""

    out: Path
    model: str
    dropped: Choice
    depth_before: int
    depth: int
    parameters_before: int
    parameters: int

    def record(self) -> dict[str, object]:
        """The content of `linscore.json`."""
        return {"operation": "drop"} | {k: v for k, v in asdict(self).items() if k != "out"} | {"versions": versions()}


def run_prune(
    model: str,
    *,
    drop_blocks: str,
    out: str,
    moments: str | None = None,
    by: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
) -> Pruned:
    """Drop blocks of `model` and save what is left to `out`; the arguments are the options of `linscore prune`.

    Raises:
        LinscoreError: for any input that cannot be used, and when `out` exists; nothing is written then.
    """
    with new_folder(out) as folder:
        report = None if moments is None else Report.load(moments)
        choice = _choice(drop_blocks, report, by)
        loaded = load_pretrained(model, dtype=dtype, device=device)
        if report is not None:
            _check_belongs(report, find_decoder(loaded.model), model)
        cut = drop(loaded.model, choice.blocks)
        if dtype == "auto" and loaded.stored is torch.float16:  # which a CPU has loaded as float32
            cut.half()
        pruned = _pruned(Path(out), model, choice, loaded.model, cut)
        save_checkpoint(folder, cut, loaded.tokenizer, pruned.record())
    return pruned


def _choice(drop_blocks: str, report: Report | None, by: str | None) -> Choice:
    """A plain number asks for so many of the ranking, anything with a comma or dash names blocks."""
    if re.fullmatch(r"\s*\d+\s*", drop_blocks):
        if report is None:
            raise LinscoreError(
                f"--drop {drop_blocks} asks for the {drop_blocks} first of a ranking: give --moments DIR (from "
                f"`linscore score`), or name block {drop_blocks} as --drop {drop_blocks},"
            )
        return _first(int(drop_blocks), report, by or BY)
    if report is not None or by is not None:
        raise LinscoreError(f"--drop {drop_blocks} names the blocks: leave out --moments and --by, or give a number")
    try:
        return Choice(parse_blocks(drop_blocks.strip().removesuffix(",")))
    except LinscoreError as error:
        raise LinscoreError(f"--drop {drop_blocks!r} is no number and no list: write 3, or 2,5-7, or 5,") from error


def _first(count: int, report: Report, by: str) -> Choice:
    """The `count` first blocks of the ranking, in the order of the ranking."""
    ranking = rank(report, by)
    figures = {block.index: getattr(block, by) for block in ranking if getattr(block, by) is not None}
    if not 1 <= count <= len(figures):
        raise LinscoreError(f"--drop {count}: {len(figures)} blocks were scored by {by}; give a number from 1 to that")
    blocks = list(figures)[:count]
    scored: dict[str, str | int | None] = {"model": report.model, "text": report.text, "tokens": report.tokens}
    return Choice(blocks, by, {index: figures[index] for index in blocks}, scored)


def _check_belongs(report: Report, decoder: Decoder, model: str) -> None:
    have, need = (report.depth, report.width), (len(decoder.blocks), decoder.width)
    if have != need:
        raise LinscoreError(
            f"--moments were scored on a model of {have[0]} blocks, width {have[1]} ({report.model}), but {model} has "
            f"{need[0]}, width {need[1]}: score {model} first"
        )


def _pruned(out: Path, name: str, choice: Choice, model: nn.Module, cut: nn.Module) -> Pruned:
    return Pruned(
        out=out,
        model=name,
        dropped=choice,
        depth_before=len(find_decoder(model).blocks),
        depth=len(find_decoder(cut).blocks),
        parameters_before=_parameters(model),
        parameters=_parameters(cut),
    )


def _parameters(model: nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
