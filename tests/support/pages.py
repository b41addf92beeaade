"""Documentation that runs: the fenced blocks of a page in their order, in one folder and one namespace.

A block of `python` is run; of `sh` each line is, which begins with `linscore`; a block with a `title` is written to the
file of that name. A block of `text` is what the one before it prints: `...` stands for anything, bars may have any
length, numbers with decimals may be off by 3 %, and spaces do not matter. What is indented instead is not run.
"""

import contextlib
import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from linscore import cli

FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
SPARE = re.compile(rf"(?P<number>{NUMBER.pattern})|(?P<bar>[▏▎▍▌▋▊▉█]+)|(?P<space>\s+)")

STANDS_FOR = {"number": f"({NUMBER.pattern})", "bar": "[▏▎▍▌▋▊▉█]*", "space": r"\s*"}


class Block(NamedTuple):
    """A fenced block: its language, the file that it is, its text, what it prints, and the line that it begins in."""

    kind: str
    title: str | None
    source: str
    shown: str | None
    line: int


def blocks(path: Path) -> list[Block]:
    """The blocks of a page, each with the `text` behind it; of a notebook its cells of code, with what is stored."""
    text, found = path.read_text(encoding="utf-8"), []
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        return [Block("python", None, "".join(one["source"]), printed_by(one), 1) for one in cells]
    for match in FENCE.finditer(text):
        kind, title, source = match.groups()
        if kind == "text" and title is None:
            assert found, f"{path}: the first block is what another prints"
            found[-1] = found[-1]._replace(shown=source)
        else:
            found.append(Block(kind, title, source, None, text.count("\n", 0, match.start()) + 2))
    return found


def printed_by(cell: dict[str, Any]) -> str:
    """What a cell printed when it was stored."""
    return "".join("".join(output["text"]) for output in cell["outputs"])


class Runner:
    """Runs blocks in `folder`, where the process is; a score that begins a page is taken over from another page."""

    def __init__(self, folder: Path, scores: dict[str, tuple[Path, str]], **names: Any) -> None:
        self.folder, self.scores = folder, scores
        self.names: dict[str, Any] = {"__name__": "__main__", **names}
        self.fresh = True

    def run(self, block: Block, page: Path) -> str:
        """Run a block: what it printed."""
        if block.title is not None:
            (self.folder / block.title).write_text(block.source, encoding="utf-8")
            return ""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if block.kind == "python":
                exec(compile("\n" * (block.line - 1) + block.source, str(page), "exec"), self.names)
            elif block.kind == "sh":
                for line in block.source.replace("\\\n", " ").splitlines():
                    print(self.command(line), end="")
            else:
                raise AssertionError(f"{page}: nothing runs {block.kind}: indent it, or give it a title")
        self.fresh = False
        return printed.getvalue()

    def command(self, line: str) -> str:
        """What a command prints."""
        words = line.partition("#")[0].split()
        assert words[:1] == ["linscore"], line
        key = " ".join(words)
        if not self.fresh:
            return called(words)
        self.fresh = False
        if key not in self.scores:
            self.scores[key] = self.folder.with_name(f"{self.folder.name}-kept"), called(words)
            shutil.copytree(self.folder, self.scores[key][0])
        else:
            shutil.copytree(self.scores[key][0], self.folder, dirs_exist_ok=True)
        return self.scores[key][1]


def called(words: list[str]) -> str:
    """What the command line prints, which must end well."""
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out), patch.object(sys, "argv", words):
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
    assert not code, " ".join(words)
    return out.getvalue()


def alike(shown: str, printed: str) -> bool:
    """Whether that was printed which is shown, where "..." stands for anything.

    What stands between is looked for one after the other: one expression for all would try every way to share out.
    """
    parts, printed, at = shown.strip().split("..."), printed.strip(), 0
    for nth, part in enumerate(parts, 1):
        pattern, wanted = _pattern(part)
        piece = re.compile(pattern + (r"\Z" if nth == len(parts) else ""))
        found = piece.match(printed) if nth == 1 else piece.search(printed, at)
        if found is None or not all(map(near, wanted, found.groups())):
            return False
        at = found.end()
    return True


def _pattern(shown: str) -> tuple[str, list[str]]:
    """What is printed where this is shown, and the numbers of it, which are the groups of the other."""
    pattern, wanted, at = "", [], 0
    for match in SPARE.finditer(shown):
        pattern += re.escape(shown[at : match.start()]) + STANDS_FOR[str(match.lastgroup)]
        wanted += [match[0]] * (match.lastgroup == "number")
        at = match.end()
    return pattern + re.escape(shown[at:]), wanted


def near(wanted: str, found: str) -> bool:
    """Whether two numbers are the same: whole ones are."""
    if "." not in wanted:
        return wanted == found
    unit = 10.0 ** -len(wanted.partition("e")[0].partition(".")[2])
    exact, other = (float(one.replace(",", "")) for one in (wanted, found))
    return abs(exact - other) <= max(0.03 * abs(exact), 1.5 * unit * (abs(exact) if "e" in wanted else 1))
