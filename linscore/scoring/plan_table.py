"""What `linscore plan` shows: what a score holds, what each placement takes of the devices, and which one is taken."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from linscore.machine.devices import DISK
from linscore.scoring.plan import SHARE, Placed, Plan, size


def plan_dict(plan: Plan) -> dict[str, Any]:
    """The JSON form: bytes, seconds and FLOP."""
    return asdict(plan)


def plan_table(plan: Plan) -> RenderableType:
    """The tables, and in plain lines what is taken and what is estimated."""
    placed = f"placement  {plan.placement or 'none fits'}: {plan.why}"
    return Group(_holds(plan), _ways(plan), Text(placed), Text(_estimates(plan), style="dim"))


def _holds(plan: Plan) -> Table:
    needs, sizes = plan.needs, plan.needs.sizes
    table = Table(
        title=f"{plan.model}: {sizes.parameters / 1e9:.3g} billion parameters, {needs.depth} blocks of width "
        f"{needs.width:,}, {plan.dtype}"
    )
    table.add_column("holds")
    table.add_column("", justify="right")
    table.add_column("", style="dim")
    blocks = f"largest block {size(sizes.largest_block)}, outside the blocks {size(sizes.outside)}"
    folds = f"{plan.folds} fold{'s' * (plan.folds != 1)}, and so much on disk"
    table.add_row("weights", size(sizes.weights), blocks)
    table.add_row("moments", size(needs.moments), f"{folds}; at most as much again where blocks meet attention sinks")
    table.add_row("a batch", size(needs.batch), f"{plan.sequences} × {plan.length:,} tokens at the peak (estimate)")
    table.add_row("figures", size(needs.solve), f"with sinks {size(needs.solve_bound)} (estimate)")
    states = f"of one token {size(needs.state)}"
    total = "–" if plan.tokens is None else size(plan.tokens * needs.state)
    table.add_row("states", total, f"{states}; kept by stream alone")
    return table


def _ways(plan: Plan) -> Table:
    table = Table(title=_devices(plan))
    table.add_column("placement")
    for name in ("each device", "with sinks", "host", "scratch", "reads weights", "time (estimate)"):
        table.add_column(name, justify="right")
    table.add_column("", style="dim")
    for way in plan.ways:
        table.add_row(*_row(way), style="bold" if way.placement == plan.placement else None)
    return table


def _row(way: Placed) -> tuple[str, ...]:
    host, scratch = (size(count) if count else "–" for count in (way.host, way.scratch))
    passes = "–" if way.passes is None else f"{way.passes}×"
    return (
        way.placement,
        size(way.device),
        size(way.device_bound),
        host,
        scratch,
        passes,
        "–" if way.seconds is None else _duration(way.seconds),
        way.obstacle or "",
    )


def _devices(plan: Plan) -> str:
    devices = plan.devices
    each = " each" * (devices.count > 1)
    free = "" if devices.memory is None else f", {size(devices.memory)}{each} {'free' * devices.measured or 'usable'}"
    host = "" if devices.host is None or devices.kind == "cpu" else f", {size(devices.host)} of host memory free"
    return f"on {devices.name}{free}{host}"


def _estimates(plan: Plan) -> str:
    devices = plan.devices
    found = ["Weights and moments are counted; what a batch and the figures hold is estimated."]
    if devices.matrix is None:
        found.append(f"No rate of {plan.dtype} products is stated for {devices.name}, so no time is either.")
    elif plan.tokens is None:
        found.append("Give --tokens for the time, and for what stream keeps.")
    else:
        rate = f"{devices.matrix / 1e12:.3g} TFLOP/s, {'measured here' if devices.measured else 'as stated'}"
        found.append(
            f"Time: {SHARE[devices.kind]:.0%} of a plain product's rate is assumed ({rate}); whole has a process on "
            f"each device; stream reads at {min(DISK, devices.link) / 1e9:.3g} GB/s at most."
        )
    return " ".join(found)


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.2g} {unit}" if seconds < 100 * length else f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.2g} s"
