"""What a smaller decoder costs under one budget, by `linscore compress` and by the ways of others: a table.

    python -m benchmarks.studies.compress                                        # the built-in decoder, an hour
    python -m benchmarks.studies.compress FOLDER --train FILE --test FILE        # any other

Everything is fitted and chosen on the training text; losses are of the test text, in windows that do not overlap.
Results go to benchmarks/results/compress-NAME.json and .md.

    dropped      whole blocks, the one that costs least perplexity first, measured again after each
    linearized   the same blocks as affine maps; fused: in the MLP before them
    recipe       the paper's: blocks of highest in-sample linearity as affine maps, distilled
    span         ReplaceMe's: the span of least angular distance, fused by least squares without a constant
    compress     attention, MLP and blocks in all forms, as searched; then healed in closed form
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

import linscore
from benchmarks import results
from benchmarks.studies.surgery import Bench, distilled, training_text
from linscore.embedded.shipped import EMBEDDED, EMBEDDED_TEXT
from linscore.errors import LinscoreError
from linscore.jobs.compress import run_compress
from linscore.models.load import load_pretrained
from linscore.options.cut import CompressOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.spans import runs
from linscore.surgery.choose import choose, choose_from
from linscore.surgery.fuse import fit_fusion, fuse

SHARES = (0.9, 0.8, 0.7)


class Study:
    """One decoder, its rows so far, and what was searched."""

    def __init__(self, bench: Bench, name: str, folder: Path, options: argparse.Namespace) -> None:
        self.bench, self.name, self.folder, self.options = bench, name, folder, options
        self.rows: list[dict[str, Any]] = []
        self.blocks = sum(p.numel() for p in bench.loaded.decoder.blocks.parameters())
        self.base = bench.loss(bench.loaded.model).nats_per_token

    def add(self, row: str, share: float, model: PreTrainedModel, **more: Any) -> None:
        """Measure a model, and keep what it adds to the loss and what is left of the blocks."""
        added = self.bench.loss(model).nats_per_token - self.base
        left = sum(p.numel() for p in linscore.find_decoder(model).blocks.parameters()) / self.blocks
        self.rows.append({"row": row, "share": share, "gone": 1 - left, "added": added, **more})
        print(f"{row:<24} {share:.1f}  {1 - left:6.1%} gone  {added:+.4f}", flush=True)

    def whole_blocks(self, share: float, order: list[int], report: linscore.Report) -> None:
        """The ways that take whole blocks, as many as come nearest to the share."""
        model, depth = self.bench.loaded.model, report.depth
        count = max(1, round((1 - share) * depth))
        gone = sorted(order[:count])
        self.add("dropped", share, linscore.drop(model, gone), blocks=gone)
        maps = {i: linscore.fit_block_map(report.moments[f"block.{i}"], ridge="auto") for i in range(depth)}
        self.add("linearized", share, linscore.linearize(model, {i: maps[i] for i in gone}), blocks=gone)
        self.attempt("fused", share, lambda: self.fused(gone))
        chosen = choose_from(report, count, by="linearity").blocks
        linear = linscore.linearize(model, {i: maps[i] for i in chosen})
        self.add("recipe", share, distilled(self.bench, linear, chosen), blocks=chosen)
        self.attempt("span", share, lambda: self.span(count))

    def attempt(self, row: str, share: float, make: Callable[[], PreTrainedModel]) -> None:
        """A way that some choices of blocks do not take."""
        try:
            self.add(row, share, make())
        except LinscoreError as error:
            self.rows.append({"row": row, "share": share, "reason": str(error)})

    def fused(self, gone: list[int]) -> PreTrainedModel:
        """Blocks gone, each run of them fused into the MLP before it."""
        model, spans = self.bench.loaded.model, runs(gone)
        moments = linscore.score(model, self.bench.batches(), fuse=spans, spectra=False).moments
        return fuse(model, {span: fit_fusion(model, span, moments) for span in spans})

    def span(self, count: int) -> PreTrainedModel:
        """ReplaceMe's: one span by angular distance, T = M⁺Y on the output, nothing else."""
        model, batches = self.bench.loaded.model, self.bench.batches
        [chosen] = choose(model, batches, count, by="angular_distance", span=count).spans
        moments = linscore.score(model, batches(), fuse_output=[chosen], spectra=False).moments
        return fuse(model, {chosen: fit_fusion(model, chosen, moments, on="output", ridge=None)})

    def compressed(self, share: float, before: Path | None) -> Path:
        """By the command's own job, healed and not; where it lies."""
        text = TextOptions(text=self.bench.train, tokens=self.options.compress_tokens)
        place, found = PlaceOptions(dtype="float32", device="cpu"), before
        for row, heals in (("compress", "none"), ("compress, healed", "closed")):
            started, out = time.perf_counter(), self.folder / f"{share}-{heals}"
            wanted = CompressOptions(
                params=share,
                heal=heals,
                measure_tokens=self.options.measure_tokens,
                measured=None if found is None else str(found),
            )
            done = run_compress(self.name, out=str(out), wanted=wanted, text=text, place=place)
            seconds = time.perf_counter() - started
            more = {"choice": done.result.steps[-1]["choice"], "trials": done.result.trials}
            more |= {"passes": done.result.passes, "seconds": seconds, "measured": done.result.steps[-1]["loss"]}
            self.add(row, share, linscore.load(str(out), device="cpu"), **more)
            found = out
        assert found is not None
        return found


def markdown(found: dict[str, Any]) -> str:
    """The table: loss added on the test text, in nats per token, and what is gone of the blocks' parameters."""
    lines = [f"# Compressing {found['model']}", ""]
    lines += [f"- {name}: {value}" for name, value in found["facts"].items()]
    lines += [f"- {name}: {value}" for name, value in found["options"].items()]
    lines += [f"- uncut: {found['base']:.4f} nats per token", "- loss added (share of the blocks' parameters gone)", ""]
    lines += ["| | " + " | ".join(f"{share:g} stays" for share in SHARES) + " |", "|---|" + "---|" * len(SHARES)]
    for name in dict.fromkeys(row["row"] for row in found["rows"]):
        cells = {row["share"]: row for row in found["rows"] if row["row"] == name}
        lines.append(f"| {name} | " + " | ".join(_cell(cells.get(share)) for share in SHARES) + " |")
    return "\n".join([*lines, ""])


def _cell(row: dict[str, Any] | None) -> str:
    return "–" if row is None or "added" not in row else f"{row['added']:+.4f} ({row['gone']:.1%})"


def main() -> None:
    """Measure one decoder and write its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=EMBEDDED)
    parser.add_argument("--train", help="text to fit, choose and distil on; the built-in decoder has one")
    parser.add_argument("--test", help="text to measure on")
    parser.add_argument("--tokens", type=int, default=100_000, help="of the training text, for the ways of others")
    parser.add_argument("--compress-tokens", type=int, default=160_000, help="of the training text, for compress")
    parser.add_argument("--measure-tokens", type=int, default=8192, help="that a trial is measured on")
    parser.add_argument("--steps", type=int, default=100, help="of distillation")
    parser.add_argument("--only", choices=("all", "compress"), default="all", help="leave out the ways of others")
    options = parser.parse_args()
    loaded = load_pretrained(options.model, dtype="float32", device="cpu")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "train").mkdir()
        train = options.train or training_text(folder / "train")
        study = Study(Bench(loaded, train, options.test or str(EMBEDDED_TEXT), options), options.model, folder, options)
        found: Path | None = None
        for share in SHARES:
            found = study.compressed(share, found)
        if options.only == "all":
            report = linscore.score(loaded.model, study.bench.batches(), spectra=False)
            small = list(itertools.islice(study.bench.batches(), 5))
            count = max(1, round((1 - min(SHARES)) * report.depth))
            order = choose(loaded.model, lambda: small, count, by="perplexity", sequential=True).blocks
            for share in SHARES:
                study.whole_blocks(share, order, report)
    name = Path(options.model).name
    names = ("tokens", "compress_tokens", "measure_tokens", "steps")
    written = {
        "model": name,
        "facts": results.facts(),
        "options": {one: getattr(options, one) for one in names},
        "base": study.base,
        "rows": study.rows,
    }
    path = results.ROOT / "benchmarks" / "results" / f"compress-{name}.json"
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(written), encoding="utf-8")
    print(path, path.with_suffix(".md"), sep="\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
