"""What surgery costs in perplexity, and which figure chooses best: a table for one decoder, about twenty minutes.

    python -m benchmarks.studies.surgery                                        # the built-in decoder
    python -m benchmarks.studies.surgery FOLDER --train FILE --test FILE        # any other

Moments and distillation see the training text only, losses are of the test text. Results go to
benchmarks/results/surgery-NAME.json and .md. The built-in decoder is fitted on its training text (this Python's
standard library without the held-out modules) and measured on those modules.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import linscore
from benchmarks import results
from linscore.distillation.distil import distil
from linscore.embedded.shipped import EMBEDDED, EMBEDDED_TEXT
from linscore.evaluation.perplexity import TextLoss, text_loss
from linscore.models.load import Pretrained, load_pretrained
from linscore.options.text import TextOptions
from linscore.pretraining.token_store import standard_library
from linscore.spans import Span, runs
from linscore.surgery.choose import choose, choose_from, losses_without
from linscore.surgery.fuse import fit_fusion, fuse
from linscore.text.source import Source, Text

METRICS = {
    "linearity_heldout": "linearity, held out",
    "linearity": "linearity, in-sample (the paper's)",
    "linearity_no_residual_heldout": "linearity w/o residual, held out",
    "linearity_no_residual": "linearity w/o residual, in-sample",
    "block_influence": "block influence (1 − cos)",
    "angular_distance": "angular distance",
    "relative_error": "relative error",
}
COUNTS = (1, 2, 3, 4)


class Bench:
    """One decoder, its training and test text, and the rows found so far."""

    def __init__(self, loaded: Pretrained, train: str, test: str, options: argparse.Namespace) -> None:
        self.loaded, self.train, self.test, self.options = loaded, train, test, options
        self.rows: list[dict[str, Any]] = []

    def batches(self, batch_size: int | None = None) -> Iterator[dict[str, Tensor]]:
        """The training text, from its start."""
        text = Text(TextOptions(text=self.train, tokens=self.options.tokens, batch_size=batch_size))
        return text.batches(self.loaded.tokenizer, self.loaded.context, self.loaded.model.device)

    def loss(self, model: PreTrainedModel) -> TextLoss:
        """Of the test text, windows that do not overlap."""
        how = {"window": self.loaded.context, "stride": self.loaded.context, "tokens": self.options.test_tokens}
        return text_loss(model, self.loaded.tokenizer, Source(self.test).documents(), **how)

    def add(self, table: str, row: str, count: int, blocks: list[int], model: PreTrainedModel) -> float:
        """Measure a model and keep the figure."""
        found = self.loss(model)
        self.rows.append(
            {
                "table": table,
                "row": row,
                "count": count,
                "blocks": blocks,
                "loss": found.nats_per_token,
                "perplexity": found.perplexity,
                "bits_per_byte": found.bits_per_byte,
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
            }
        )
        print(f"{table:<10} {row:<36} {count} {blocks!s:<16} loss {found.nats_per_token:.4f}", flush=True)
        return found.nats_per_token


def forms(bench: Bench, report: linscore.Report) -> None:
    """The same blocks dropped, fused, replaced by linear blocks, and these distilled."""
    model = bench.loaded.model
    for count in COUNTS:
        blocks = sorted(choose_from(report, count).blocks)
        if 0 in blocks:  # which cannot be fused
            break
        spans = runs(blocks)
        moments = linscore.score(model, bench.batches(), spans=spans, fuse=spans, spectra=False).moments
        bench.add("forms", "dropped", count, blocks, linscore.drop(model, blocks))
        for on in ("output", "intermediate"):
            fusions = {span: fit_fusion(model, span, moments, on=on) for span in spans}
            bench.add("forms", f"fused on the {on}", count, blocks, fuse(model, fusions))
        maps = {index: linscore.fit_block_map(moments[f"block.{index}"], ridge="auto") for index in blocks}
        linear = linscore.linearize(model, maps)
        bench.add("forms", "linearized, block by block", count, blocks, linear)
        names = [f"span.{span}" if span.first < span.last else f"block.{span}" for span in spans]
        wide = {
            span: linscore.fit_block_map(moments[name], ridge="auto") for span, name in zip(spans, names, strict=True)
        }
        if len(wide) < count:
            bench.add("forms", "linearized, span by span", count, blocks, linscore.linearize(model, wide))
        itself = {index: index for index in blocks}
        distilled(bench, linear, itself, [linscore.find_decoder(linear).blocks[index] for index in blocks])
        bench.add("forms", "distilled", count, blocks, linear)


def singles(bench: Bench) -> None:
    """Each block alone: dropped, fused, linearized."""
    model = bench.loaded.model
    spans = [Span(index, index) for index in range(1, len(linscore.find_decoder(model).blocks))]
    moments = linscore.score(model, bench.batches(), fuse=spans, spectra=False).moments
    for span in spans:
        (index,) = span.blocks
        bench.add("singles", "dropped", index, [index], linscore.drop(model, [index]))
        for on in ("output", "intermediate"):
            fusion = fit_fusion(model, span, moments, on=on)
            bench.add("singles", f"fused on the {on}", index, [index], fuse(model, {span: fusion}))
        fitted = linscore.fit_block_map(moments[f"block.{index}"], ridge="auto")
        bench.add("singles", "linearized", index, [index], linscore.linearize(model, {index: fitted}))


def distilled(bench: Bench, student: PreTrainedModel, pairs: Mapping[int, int], trained: Iterable[nn.Module]) -> None:
    """Some of a student's modules trained against the original's states and predictions, everything else frozen."""
    own = {id(parameter) for module in trained for parameter in module.parameters()}
    distil(
        student,
        bench.loaded.model,
        lambda: bench.batches(batch_size=8),
        pairs=pairs,
        parameters=[name for name, parameter in student.named_parameters() if id(parameter) in own],
        steps=bench.options.steps,
        kl=1.0,
    )


def metrics(bench: Bench, report: linscore.Report) -> None:
    """Blocks chosen by each figure, dropped and linearized; by perplexity at once, and one after the other."""
    model, small = bench.loaded.model, list(itertools.islice(bench.batches(), bench.options.batches))
    maps = {i: linscore.fit_block_map(report.moments[f"block.{i}"], ridge="auto") for i in range(report.depth)}
    losses: dict[tuple[int, ...], tuple[float, float]] = {}

    def measure(row: str, blocks: list[int]) -> None:
        key = tuple(sorted(blocks))
        if key not in losses:
            cuts = (linscore.drop(model, key), linscore.linearize(model, {index: maps[index] for index in key}))
            losses[key] = tuple(bench.loss(cut).nats_per_token for cut in cuts)
        dropped, linear = losses[key]
        found = {"table": "metrics", "row": row, "count": len(key), "blocks": blocks}
        bench.rows.append({**found, "loss": dropped, "loss_linearized": linear})
        print(f"metrics    {row:<40} {len(key)} {blocks!s:<16} loss {dropped:.4f} {linear:.4f}", flush=True)

    for by, row in METRICS.items():
        for count in COUNTS:
            measure(row, choose_from(report, count, by=by).blocks)
    for by, row in (("perplexity", "perplexity without the block"), ("linearity_heldout", "linearity, held out")):
        order = choose(model, lambda: small, COUNTS[-1], by=by, sequential=True).blocks
        for count in COUNTS:
            measure(f"{row}, sequential", order[:count])
    left_out = losses_without(model, small)
    order = sorted((span for span in left_out if span is not None), key=left_out.__getitem__)
    for count in COUNTS:
        measure("perplexity without the block", [span.first for span in order[:count]])


TABLES = {
    "forms": "The same blocks, the first by held-out linearity",
    "metrics": "Chosen by each figure: dropped / linearized",
    "singles": "One block gone",
}


def markdown(found: dict[str, Any]) -> str:
    """All tables: loss in nats per token of the test text."""
    base = found["base"]
    lines = [f"# Surgery on {found['model']}", ""]
    lines += [f"- {name}: {value}" for name, value in found["facts"].items()]
    lines += [
        f"- fitted on: {found['train']}, {found['options']['tokens']:,} tokens; measured on: {found['test']}",
        f"- distilled: {found['options']['steps']} steps of 8 sequences, linear blocks only, states and logits",
        f"- uncut: loss {base['loss']:.4f}, perplexity {base['perplexity']:.3f}, {base['bits_per_byte']:.4f} bits/byte",
        "- all figures: loss in nats per token",
        "",
    ]
    for table, title in TABLES.items():
        lines += [f"## {title}", "", *_table([row for row in found["rows"] if row["table"] == table]), ""]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """A column for each number of blocks, or for each block."""
    columns = sorted({row["count"] for row in rows})
    singles = all(row["table"] == "singles" for row in rows)
    alike = all(len({tuple(row["blocks"]) for row in rows if row["count"] == count}) == 1 for count in columns)
    heads = [f"block {count}" if singles else f"{count} gone" for count in columns]
    if alike and not singles:
        gone = {row["count"]: ", ".join(map(str, row["blocks"])) for row in rows}
        heads = [f"{head} ({gone[count]})" for head, count in zip(heads, columns, strict=True)]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(columns)]
    for name in dict.fromkeys(row["row"] for row in rows):
        cells = {row["count"]: _cell(row, with_blocks=not alike) for row in rows if row["row"] == name}
        lines.append(f"| {name} | " + " | ".join(cells.get(count, "–") for count in columns) + " |")
    return lines


def _cell(row: dict[str, Any], *, with_blocks: bool) -> str:
    figures = " / ".join(f"{row[name]:.3f}" for name in ("loss", "loss_linearized") if name in row)
    return f"{figures} ({', '.join(map(str, row['blocks']))})" if with_blocks else figures


def main() -> None:
    """Measure one decoder and write its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=EMBEDDED)
    parser.add_argument("--train", help="text to fit and distil on; the built-in decoder has one")
    parser.add_argument("--test", help="text to measure on")
    parser.add_argument("--tokens", type=int, default=100_000, help="of the training text")
    parser.add_argument("--test-tokens", type=int, help="of the test text [all of it]")
    parser.add_argument("--steps", type=int, default=100, help="of distillation")
    parser.add_argument("--batches", type=int, default=5, help="of training text to measure blocks by perplexity on")
    options = parser.parse_args()
    loaded = load_pretrained(options.model, dtype="float32", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        train, test = options.train or training_text(Path(folder)), options.test or str(EMBEDDED_TEXT)
        bench = Bench(loaded, train, test, options)
        base, start = bench.loss(loaded.model), time.perf_counter()
        print(f"uncut      loss {base.nats_per_token:.4f}  bits/byte {base.bits_per_byte:.4f}", flush=True)
        report = linscore.score(loaded.model, bench.batches(), spectra=False)
        forms(bench, report)
        metrics(bench, report)
        singles(bench)
    found = {
        "model": Path(options.model).name,
        "facts": results.facts() | {"minutes": f"{(time.perf_counter() - start) / 60:.0f}"},
        "train": Path(options.train).name if options.train else "standard library without the held-out modules",
        "test": Path(options.test).name if options.test else "held-out modules",
        "options": {name: getattr(options, name) for name in ("tokens", "steps", "batches")},
        "base": {name: getattr(base, name) for name in ("perplexity", "bits_per_byte")} | {"loss": base.nats_per_token},
        "rows": bench.rows,
    }
    path = results.ROOT / "benchmarks" / "results" / f"surgery-{found['model']}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(found), encoding="utf-8")
    print(path, path.with_suffix(".md"), sep="\n")


def training_text(folder: Path) -> str:
    """Every seventh training file of the built-in decoder, so that a short text has something of every package."""
    for index, text in enumerate(itertools.islice(standard_library(), 0, None, 7)):
        (folder / f"{index:05}.txt").write_text(text, encoding="utf-8")
    return str(folder)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
