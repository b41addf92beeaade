"""What a figure is made on and from: commands of linscore, each run once, and texts that ship or lie on the Hub."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from linscore.embedded.shipped import EMBEDDED_TEXT
from linscore.pretraining.token_store import standard_library

READ = 240_000  # characters of Python's standard library that maps are fitted on
LABELLED = 60  # pieces of each module
MODULES = ("argparse", "configparser", "difflib", "statistics")  # the longest of the held-out files
QUESTIONS = 100
BEGUN = 24  # texts that are written on
AT_ONCE = ("prune", "linearize", "probe")  # whose folders are whole or not there


class Run(NamedTuple):
    """A command of linscore whose result is a folder of the output, or what it prints as JSON, kept in a file."""

    result: str
    arguments: tuple[str, ...]

    @property
    def printed(self) -> bool:
        """Whether the result is what is printed."""
        return self.result.endswith(".json")

    @property
    def line(self) -> str:
        """The command as one types it."""
        return " ".join(("linscore", *self.arguments, *self.tail("OUT")))

    def tail(self, out: object) -> tuple[str, ...]:
        """The options that say where the result goes."""
        return ("--json",) if self.printed else ("--out", f"{out}/{self.result}")


@dataclass(frozen=True)
class Setting:
    """Where results go, and on what: what ships, or the paper's models and data on a machine with a Hub.

    Attributes:
        out: the folder of all results; what is there is not made again.
        full: the paper's models and data.
        judge: options that name who judges stories; a reference decoder where there are none.
    """

    out: Path
    full: bool = False
    judge: tuple[str, ...] = ()

    def there(self, run: Run) -> bool:
        """Whether a result is whole."""
        path = self.out / run.result
        at_once = run.printed or run.arguments[0] in AT_ONCE
        return path.exists() if at_once else path.with_name(f"{path.name}.done").exists()

    def make(self, run: Run) -> None:
        """Run a command; one that was broken off goes on where it can.

        Raises:
            subprocess.CalledProcessError: when it fails.
        """
        path = self.out / run.result
        path.parent.mkdir(parents=True, exist_ok=True)
        if run.printed:
            path.with_suffix(".part").write_text(linscore(*run.arguments, *run.tail(self.out)), encoding="utf-8")
            path.with_suffix(".part").rename(path)
        else:
            begun = (
                path if run.arguments[0] in ("train", "distil") else path / "scoring"
            )  # of a score that was broken off
            resume = ("--resume",) if begun.exists() else ()
            linscore(*run.arguments, *run.tail(self.out), *resume)
            path.with_name(f"{path.name}.done").touch()

    def read(self, run: Run, file: str = "") -> Any:
        """What a command has left: its JSON, or that of a file in its folder."""
        return json.loads((self.out / run.result / file).read_text(encoding="utf-8"))

    def place(self, run: Run) -> str:
        """The folder of a result, as another command takes it."""
        return str(self.out / run.result)

    @property
    def training_text(self) -> str:
        """Text that was not held out, for maps and distillation: the beginning of Python's standard library."""
        library = itertools.chain.from_iterable(standard_library())
        return self._written("training.txt", ("".join(itertools.islice(library, READ)) for _ in range(1)))

    @property
    def labelled(self) -> str:
        """Pieces of the held-out text, labelled by the module that they come from."""
        rows = [{"text": piece, "label": module} for module in MODULES for piece in pieces(module, LABELLED)]
        return self._written("modules.jsonl", map(json.dumps, rows))

    @property
    def pairs(self) -> str:
        """Pieces of the held-out text, and the same with their lines in another order: which is the better text?"""
        rows = []
        for module in MODULES:
            for number, piece in enumerate(pieces(module, LABELLED // 2)):
                lines = piece.splitlines()
                random.Random(number).shuffle(lines)
                rows.append({"chosen": piece, "rejected": "\n".join(lines)})
        return self._written("pairs.jsonl", map(json.dumps, rows))

    @property
    def questions(self) -> str:
        """Which of four lines comes next, of held-out files, in the form of ARC's rows."""
        rng, rows = random.Random(0), []
        for module in MODULES:
            lines = [line for line in held_out(module).splitlines() if len(line.strip()) > 20]
            for at in rng.sample(range(8, len(lines)), QUESTIONS // len(MODULES)):
                choices = [lines[at], *rng.sample(lines, 3)]
                order = rng.sample(range(4), 4)
                choice = {"text": [choices[one].strip() for one in order], "label": list("ABCD")}
                answer = "ABCD"[order.index(0)]
                rows.append({"question": "\n".join(lines[at - 8 : at]), "choices": choice, "answerKey": answer})
        return self._written("questions.jsonl", map(json.dumps, rows))

    @property
    def begun(self) -> str:
        """Texts whose beginnings models write on: pieces of the held-out files, from the start of a line."""
        found = [piece for module in MODULES for piece in pieces(module, BEGUN // len(MODULES), 900)]
        return self._written("begun.jsonl", [json.dumps({"text": one}) for one in found])

    def _written(self, name: str, lines: Iterable[str]) -> str:
        """The place of a file of lines, made where it is not there."""
        path = self.out / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(path)


def held_out(module: str) -> str:
    """A file that no shipped decoder has seen."""
    return (EMBEDDED_TEXT / f"{module}.py.txt").read_text(encoding="utf-8")


def pieces(module: str, count: int, length: int = 200) -> list[str]:
    """So many pieces of a held-out file, evenly spread, each from the start of a line."""
    text = held_out(module)
    starts = [text.index("\n", at * (len(text) - 2 * length) // count) + 1 for at in range(count)]
    return [text[start : start + length] for start in starts]


def linscore(*arguments: str) -> str:
    """Run a command; what it prints."""
    print("linscore", *arguments, flush=True)
    command: Sequence[str] = [sys.executable, "-m", "linscore", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
