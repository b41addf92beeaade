"""The rows of a study as a file that is whole after each, and their table: what is killed leaves what it has."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import results

FOLDER = results.ROOT / "benchmarks" / "results" / "compress"
Row = dict[str, Any]


class Rows:
    """Rows `{row, share, …}` of one study, in `path` and as a table beside it.

    Args:
        path: the JSON file; what is in it stays.
        about: what rows have to share to stand in one table.
        markdown: makes the table of the file's content.
        afresh: rows that begin with this word are measured anew.

    Raises:
        SystemExit: where the file holds rows of something else.
    """

    def __init__(
        self, path: Path, about: Mapping[str, Any], markdown: Callable[[Mapping[str, Any]], str], afresh: str = ""
    ) -> None:
        self.path, self.about, self._markdown = path, dict(about), markdown
        self._found: dict[str, Any] = {"about": self.about, "facts": results.facts(), "rows": []}
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["about"] != self.about:
                raise SystemExit(f"{path} holds rows of {found['about']}: remove it, or ask for the same")
            self._found["rows"] = [row for row in found["rows"] if not (afresh and row["row"].startswith(afresh))]

    def has(self, row: str, share: float) -> bool:
        """Whether it was measured, or found to be impossible."""
        return self.find(row, share) is not None

    def find(self, row: str, share: float) -> Row | None:
        """What was measured."""
        return next((one for one in self._found["rows"] if (one["row"], one["share"]) == (row, share)), None)

    def add(self, row: Row) -> None:
        """Keep a row, with when and of which commit it is, and write everything anew."""
        facts = results.facts()
        self._found["rows"].append(row | {name: facts[name] for name in ("date", "commit")})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for target, text in ((self.path, json.dumps(self._found, indent=1)), (self.table, self._markdown(self._found))):
            partial = target.with_name(target.name + ".part")
            partial.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
            partial.replace(target)
        print(" ".join(f"{name}={value}" for name, value in row.items() if not isinstance(value, dict)), flush=True)

    @property
    def table(self) -> Path:
        """Where the table lies."""
        return self.path.with_suffix(".md")


def head(title: str, found: Mapping[str, Any]) -> list[str]:
    """The first lines of a table: what it is of, and the machine."""
    facts = {name: value for name, value in found["facts"].items() if name not in ("date", "commit")}
    dates, commits = ({row[name] for row in found["rows"]} for name in ("date", "commit"))
    facts |= {"measured": " to ".join(dict.fromkeys((min(dates), max(dates)))), "commits": ", ".join(sorted(commits))}
    return [f"# {title}", "", *(f"- {name}: {value}" for name, value in (found["about"] | facts).items())]


def grid(rows: list[Row], shares: Sequence[float], cell: Callable[[Row], str]) -> list[str]:
    """A line a row, a column a share."""
    lines = ["| | " + " | ".join(f"{share:g} stays" for share in shares) + " |", "|---|" + "---|" * len(shares)]
    for name in dict.fromkeys(row["row"] for row in rows):
        cells = {row["share"]: cell(row) for row in rows if row["row"] == name}
        lines.append(f"| {name} | " + " | ".join(cells.get(share, "–") for share in shares) + " |")
    return lines
