"""What a run found: a JSON file that grows row by row, so that a killed run leaves what it had, and its tables.

{"facts": {device, driver, versions, date, commit}, "rows": [{group, name, status, median_s, floor_s, peers, …}]}
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from linscore.machine.versions import versions

ROOT = Path(__file__).parents[1]
NO_TIME = "the time is used up"
Row = dict[str, Any]


def facts() -> dict[str, Any]:
    """Device, driver, versions, date and commit; nothing that names the machine."""
    on_gpu = torch.cuda.is_available()
    cores = len(os.sched_getaffinity(0))
    found = {"device": torch.cuda.get_device_name(0) if on_gpu else f"CPU {_cpu_name()}, {cores} cores"}
    if on_gpu:
        found["driver"] = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0")
        found["CUDA"] = str(torch.version.cuda)
    found["torch threads"] = str(torch.get_num_threads())
    found |= {"linscore": _own_version(), **versions()}
    found["date"] = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    found["commit"] = os.environ.get("LINSCORE_COMMIT") or _output("git", "describe", "--always", "--dirty")
    return found


def file_name(device: str) -> str:
    """`NVIDIA H200` → `nvidia-h200`."""
    return "-".join(re.findall(r"[a-z0-9]+", device.lower()))


def row_of(item: Any, report: Any, call: Any) -> Row:
    """What a test of pytest measured, even where it failed afterwards."""
    row = {"group": item.module.GROUP, "name": item.name.removeprefix("test_"), "status": report.outcome}
    if report.skipped:
        row["message"] = report.longrepr[2].removeprefix("Skipped: ")
    if report.failed:
        row["message"] = " ".join(call.excinfo.exconly().split())[:300]
    if report.user_properties:
        row["figures"] = dict(report.user_properties)
    benchmark = item.funcargs.get("benchmark")
    if benchmark is not None:
        row["group"] = benchmark.group or row["group"]
    stats = getattr(benchmark, "stats", None)  # None where it failed before it began
    if stats is not None and stats.stats.data:
        row |= {"median_s": stats.stats.median, "rounds": stats.stats.rounds} | benchmark.extra_info
        row["name"] = row.pop("shape", row["name"])
    return row


def start(path: Path, found: dict[str, Any]) -> None:
    """Begin a file anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, {"facts": found, "rows": []})


def add(path: Path, row: Row) -> None:
    """Append a row to the JSON file and write the tables beside it anew."""
    results = json.loads(path.read_text(encoding="utf-8"))
    results["rows"].append(row)
    _write(path, results)


def markdown(results: dict[str, Any]) -> str:
    """The facts, and one table per group."""
    lines = ["# " + results["facts"]["device"], ""]
    lines += [f"- {name}: {value}" for name, value in results["facts"].items() if name != "device"]
    lines += ["", "Medians; after each peer how many times longer it takes than linscore, in the same rounds.", ""]
    return "\n".join(lines) + "\n" + tables(results["rows"])


def tables(rows: list[Row]) -> str:
    """One table per group, in the order of the groups' first rows."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    return "\n".join(f"## {group}\n\n{_table(members)}" for group, members in groups.items())


def _table(rows: list[Row]) -> str:
    if not any("median_s" in row for row in rows):
        return _grid(["", "outcome", "figures"], [[row["name"], _outcome(row), _figures(row)] for row in rows])
    peers = list(dict.fromkeys(name for row in rows for name in row.get("peers", {})))
    columns = ["", "dtype", "linscore", "floor", "share of floor", "rounds", *peers]
    if any("expected_s" in row for row in rows):
        columns.insert(3, "expected")
    notes = [f"- {row['name']}: {figures}\n" for row in rows if (figures := _figures(row))]
    return _grid(columns, [_cells(row, columns, peers) for row in rows]) + "\n" * bool(notes) + "".join(notes)


def _cells(row: Row, columns: list[str], peers: list[str]) -> list[str]:
    if "median_s" not in row:
        return [row["name"], "", _outcome(row), *[""] * (len(columns) - 3)]
    own = seconds(row["median_s"]) + (f" ({_outcome(row)})" if row["status"] == "failed" else "")
    before = [_expected(row)] if "expected" in columns else []
    least = [seconds(row["floor_s"]), f"{row['share']:.0%}"] if "floor_s" in row else ["", ""]
    theirs = [row.get("peers", {}).get(name) for name in peers]
    compared = [f"{seconds(peer['median_s'])}, {peer['ratio']:.2f}×" if peer else "" for peer in theirs]
    return [row["name"], row.get("dtype", ""), own, *before, *least, str(row["rounds"]), *compared]


def _expected(row: Row) -> str:
    """What was expected before, and how many times that it took."""
    if "expected_s" not in row:
        return ""
    return f"{seconds(row['expected_s'])}, took {row['median_s'] / row['expected_s']:.2f}×"


def _grid(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |\n" for line in lines)


def _outcome(row: Row) -> str:
    return row["status"] + (f": {row['message']}" if row.get("message") else "")


def _figures(row: Row) -> str:
    return "; ".join(f"{name} {figure(value)}" for name, value in row.get("figures", {}).items())


def seconds(value: float) -> str:
    """A time in the unit that suits it, to three digits."""
    unit, factor = next(((u, f) for u, f in (("s", 1.0), ("ms", 1e3)) if value * f >= 1), ("µs", 1e6))
    return f"{_digits(value * factor, 3)} {unit}"


def figure(value: Any) -> str:
    """A figure to four digits, yes or no, or text as it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _digits(value, 4) if isinstance(value, float) else str(value)


def _digits(value: float, digits: int) -> str:
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def _write(path: Path, results: dict[str, Any]) -> None:
    """Whole or not at all: the run may be killed at any moment."""
    for target, text in ((path, json.dumps(results, indent=1)), (path.with_suffix(".md"), markdown(results))):
        partial = target.with_name(target.name + ".part")
        partial.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        partial.replace(target)


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "of unknown make"


def _own_version() -> str:
    """From pyproject.toml, because a copy of the sources need not be installed."""
    found = re.search(r'(?m)^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return found[1] if found else "unknown"


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
