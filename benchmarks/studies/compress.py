"""What a smaller decoder costs under one budget, by `linscore compress` and by the ways of others: a table.

    python -m benchmarks.studies.compress --runs DIR                                 # the built-in decoder, an hour
    python -m benchmarks.studies.compress FOLDER --train FILE --test FILE --runs DIR # any other
    python -m benchmarks.studies.compress NAME --suite replaceme --runs DIR          # and what others judge by

Everything is fitted and chosen on the training text; losses are of the test text, in windows that do not overlap. Rows
go to benchmarks/results/compress/NAME.json as they are measured, and its table to NAME.md: a run that is begun again
measures what is not there yet. What compress saves lies in DIR. With --suite or --tasks it answers tasks, too.

    compress            attention, MLP and blocks in all forms, as searched; healed; chosen on more text
    dropped             whole blocks, the one that costs least perplexity first, measured again after each
    linearized, fused   the same blocks as affine maps; in the MLP before them
    recipe              the paper's: blocks of highest in-sample linearity as affine maps
    span                ReplaceMe's: the span of least angular distance, fused by least squares without a constant
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

import linscore
from benchmarks import results
from benchmarks.studies.compress_others import Cut, Others
from benchmarks.studies.compress_rows import FOLDER, Rows, grid, head
from benchmarks.studies.compress_tasks import answer, check
from benchmarks.studies.surgery import Bench, training_text
from linscore.embedded.shipped import EMBEDDED, EMBEDDED_TEXT
from linscore.errors import LinscoreError
from linscore.jobs.compress import RESULT, run_compress
from linscore.models.load import load_pretrained
from linscore.options.cut import CompressOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions

SHARES = (0.9, 0.8, 0.7)
LIKE = ("tokens", "compress_tokens", "measure_tokens", "test_tokens", "steps")  # rows of one table share these
HEALED = "compress, healed"


class Study:
    """One decoder, and the rows of its table."""

    def __init__(self, bench: Bench, options: argparse.Namespace, rows: Rows) -> None:
        self.bench, self.options, self.rows = bench, options, rows
        self.blocks, self.uncut = _of_blocks(bench.loaded.model), rows.about["uncut"]

    def add(self, row: str, share: float, model: PreTrainedModel, **more: Any) -> None:
        """Measure a model, and keep what it adds to the loss and what is left of the blocks."""
        added = self.bench.loss(model).nats_per_token - self.uncut
        self.rows.add({"row": row, "share": share, "gone": 1 - _of_blocks(model) / self.blocks, "added": added, **more})

    def compress(self) -> None:
        """By the command's own job: healed, in closed form and by steps, and not; chosen on more text."""
        few, more, steps = self.options.measure_tokens, self.options.more_tokens, self.options.steps
        for share in SHARES:
            healed = self._compressed("compress", share, few, "none", None)
            self._compressed(HEALED, share, few, "closed", healed)
        for share in SHARES:
            self._compressed(f"{HEALED}, {steps} steps", share, few, str(steps), self._out(share, few, "none"))
        for share in SHARES if more else ():
            self._compressed(f"compress, chosen on {more:,}", share, more, "none", None)

    def _compressed(self, row: str, share: float, measure: int, heals: str, measured: Path | None) -> Path:
        """One row; `measured` holds what was measured on the way to the same choice."""
        out = self._out(share, measure, heals)
        if not self.rows.has(row, share):
            if not out.exists():
                self._run(out, share, measure, heals, measured)
            result = json.loads((out / RESULT).read_text(encoding="utf-8"))
            more = {name: result[name] for name in ("trials", "passes", "seconds", "losses")}
            more |= {"choice": result["steps"][-1]["choice"], "measured": result["steps"][-1]["loss"]}
            self.add(row, share, linscore.load(str(out), device=self.options.device), folder=out.name, **more)
        return out

    def _out(self, share: float, measure: int, heals: str) -> Path:
        """What one row is saved to."""
        return Path(self.options.runs) / f"{Path(self.options.model).name}-{share}-{measure}-{heals}"

    def _run(self, out: Path, share: float, measure: int, heals: str, measured: Path | None) -> None:
        """`linscore compress`, gone on with where it was killed."""
        found = None if measured is None else str(measured)
        run_compress(
            self.options.model,
            out=str(out),
            wanted=CompressOptions(params=share, heal=heals, measure_tokens=measure, measured=found),
            text=TextOptions(text=self.bench.train, tokens=self.options.compress_tokens),
            place=PlaceOptions(dtype=self.options.dtype, device=self.options.device),
            resume=out.with_name(f"{out.name}.search").exists(),
        )

    def others(self) -> None:
        """The ways that take whole blocks, as many as come nearest to the share."""
        depth = len(self.bench.loaded.decoder.blocks)
        counts = {share: max(1, round((1 - share) * depth)) for share in SHARES}
        measured: dict[tuple[str, int], dict[str, Any]] = {}
        for row, makes in Others(self.bench, max(counts.values())).ways().items():
            for share, count in counts.items():
                if not self.rows.has(row, share):
                    self._other(row, share, partial(makes, count), measured.get((row, count)))
                measured[row, count] = self.rows.find(row, share) or {}

    def _other(self, row: str, share: float, makes: Callable[[], Cut], same: dict[str, Any] | None) -> None:
        """One row; `same` is one of as many blocks."""
        if same is not None:
            self.rows.add({**same, "share": share})
            return
        started = time.perf_counter()
        try:
            model, blocks = makes()
        except LinscoreError as error:  # some choices of blocks are not taken
            self.rows.add({"row": row, "share": share, "reason": str(error)})
        else:
            self.add(row, share, model, blocks=blocks, seconds=time.perf_counter() - started)


def _of_blocks(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in linscore.find_decoder(model).blocks.parameters())


def markdown(found: Mapping[str, Any]) -> str:
    """Loss added on the test text, in nats per token, and what of the blocks is gone; how it was searched."""
    rows = found["rows"]
    lines = [*head(f"Compressing {found['about']['model']}", found), ""]
    lines += ["Loss added, in nats per token of the test text (share of the blocks' parameters gone):", ""]
    lines += [*grid(rows, SHARES, _cell), "", "How it was searched:", ""]
    lines += ["| | stays | trials | passes | seconds | loss on the choosing text | choice |", "|---|" + "---|" * 6]
    for row in rows:
        if "choice" in row and "healed" not in row["row"]:
            choice = ", ".join(f"{unit} {form}" for unit, form in row["choice"].items())
            cells = (row["row"], f"{row['share']:g}", row["trials"], f"{row['passes']:.1f}", f"{row['seconds']:.0f}")
            lines.append(f"| {' | '.join(map(str, cells))} | {row['measured']:.4f} | {choice} |")
    return "\n".join([*lines, ""])


def _cell(row: dict[str, Any]) -> str:
    return f"{row['added']:+.4f} ({row['gone']:.1%})" if "added" in row else "not possible"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=EMBEDDED)
    parser.add_argument("--runs", required=True, help="folder for what compress saves, gone on with where it is there")
    parser.add_argument("--train", help="text to fit, choose and distil on; the built-in decoder has one")
    parser.add_argument("--test", help="text to measure on")
    parser.add_argument("--tokens", type=int, default=100_000, help="of the training text, for the ways of others")
    parser.add_argument("--compress-tokens", type=int, default=160_000, help="of the training text, for compress")
    parser.add_argument("--measure-tokens", type=int, default=8192, help="that a trial is measured on")
    parser.add_argument("--more-tokens", type=int, default=32_768, help="that it is measured on once more; 0: not")
    parser.add_argument("--test-tokens", type=int, help="of the test text [all of it]")
    parser.add_argument("--steps", type=int, default=60, help="of distillation, 8 sequences each")
    parser.add_argument("--only", choices=("all", "compress", "others"), default="all", help="rows")
    parser.add_argument("--afresh", action="store_true", help="measure the rows of compress anew")
    parser.add_argument("--suite", help="as linscore evaluate takes it, and the next three")
    parser.add_argument("--tasks")
    parser.add_argument("--task-data", action="append", default=[])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    return parser.parse_args()


def main() -> None:
    """Measure one decoder and write its tables."""
    options = _options()
    if options.suite or options.tasks:
        check(options)
    loaded = load_pretrained(options.model, dtype=options.dtype, device=options.device)
    runs, name = Path(options.runs), Path(options.model).name
    train = options.train or standing_text(runs / "train")
    bench = Bench(loaded, train, options.test or str(EMBEDDED_TEXT), options)
    about = {"model": name} | {one: getattr(options, one) for one in LIKE}
    about["uncut"] = bench.loss(loaded.model).nats_per_token
    rows = Rows(FOLDER / f"{name}.json", about, markdown, "compress" if options.afresh else "")
    study = Study(bench, options, rows)
    if options.only != "others":
        study.compress()
    if options.only != "compress":
        study.others()
    if options.suite or options.tasks:
        healed = {f"{share:g} stays": runs / row["folder"] for share in SHARES if (row := rows.find(HEALED, share))}
        answer(options, healed, FOLDER / f"{name}-{options.suite or 'tasks'}.json", results.facts())
    print(rows.path, rows.table, sep="\n")


def standing_text(folder: Path) -> str:
    """The built-in decoder's training text in a folder that stays: a run that goes on reads the same."""
    if not folder.exists():
        folder.mkdir(parents=True)
        training_text(folder)
    return str(folder)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
