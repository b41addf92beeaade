"""What the terminal shows of `linscore finetune-delta`: one row per block, and their mean."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from linscore.finetuning.delta import FinetuneDelta
from linscore.terminal import number, warning

__all__ = ["finetune_table"]

SHOWN = {
    "linearity": "linearity_heldout",
    "w/o residual": "linearity_no_residual_heldout",
    "cosine": "cosine",
}


def finetune_table(result: FinetuneDelta) -> RenderableType:
    """Held-out scores before, and what fine-tuning adds to them."""
    table = Table(title=f"{result.model}, {result.task} on {result.data}: {result.tokens:,} tokens scored")
    table.add_column("block", justify="right")
    for heading in SHOWN:
        table.add_column(heading, justify="right")
        table.add_column("Δ", justify="right", style="cyan")
        table.add_column("±", justify="right", style="dim")
    for block in [*range(result.depth), None]:
        cells = [cell for figure in SHOWN.values() for cell in _cells(result, figure, block)]
        table.add_row("mean" if block is None else str(block), *cells, end_section=block == result.depth - 1)
    accuracy, seeds = result.accuracy, len(result.seeds)
    notes = (
        "held-out scores before fine-tuning, Δ what it adds, "
        + (f"± standard deviation over {seeds} seeds" if seeds > 1 else "one seed: no spread, give more")
        + f"; accuracy on held-out examples {number(accuracy.mean)} ± {number(accuracy.std)}, without a model "
        f"{number(result.baseline)}; scored: {result.scored_text}"
    )
    doubts = list(result.warnings)
    if result.truncated:
        doubts.append(f"{result.truncated:,} texts lost their beginning: read longer ones, where the context allows it")
    return Group(table, Text(notes, style="dim"), *map(warning, doubts))


def _cells(result: FinetuneDelta, figure: str, block: int | None) -> list[str]:
    delta = result.delta(figure, block)
    change = ("–", "–") if delta is None else (f"{delta.mean:+.4f}", number(delta.std))
    return [number(result.base(figure, block)), *change]
