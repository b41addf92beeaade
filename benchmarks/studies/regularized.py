"""What a regularizer does to a decoder that learns: `linscore train`, plain and regularized, the same seeds for each.

    python -m benchmarks.studies.regularized --config 1M --seeds 0,1,2 --runs DIR
    python -m benchmarks.studies.regularized --config embedded --regularizers none,cosine --beside embedded --runs DIR
    python -m benchmarks.studies.regularized --config 150M --seeds 0,1,2 --runs DIR

Runs that are finished are kept, others are begun or gone on with; with --collect only what is there is read. Losses,
scores and cosines are those of the recipe's held-out text. Probes tell from which held-out module a passage of some 400
characters comes. Results go to benchmarks/results/regularized-CONFIG.json, .md, two pictures, and, with --reports, a
folder with the series and the reports of every checkpoint.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import linscore
from benchmarks import results
from benchmarks.studies import regularized_tables
from linscore.dynamics.folder import SERIES
from linscore.dynamics.series import Checkpoint, Dynamics, ScoredCheckpoint
from linscore.embedded.shipped import EMBEDDED_TEXT
from linscore.evaluation.perplexity import text_loss
from linscore.files.curve import read_curve
from linscore.files.run_folder import SETTINGS
from linscore.jobs.probe import run_probe
from linscore.jobs.train import LINEARITY, MODEL, run_train
from linscore.models.load import load_pretrained
from linscore.options.text import LabelledOptions, TextOptions
from linscore.options.training import ProbeOptions, RegularizerOptions, TrainingOptions
from linscore.pretraining.curve import CURVE
from linscore.pretraining.recipe import read_recipe
from linscore.scoring.block_figures import FIGURES
from linscore.scoring.report import REPORT
from linscore.text.source import Source, Text

PASSAGE, PASSAGES = 400, 40  # characters, and passages of a module
SCORED = 100_000  # tokens of the held-out modules


def train(options: argparse.Namespace, regularizer: str, seed: int) -> None:
    """Train one decoder to its end, unless that was done."""
    out = folder_of(options, regularizer, seed)
    if not (out / MODEL).exists():
        print(f"training   {out.name}", flush=True)
        regularizing = RegularizerOptions(regularizer=regularizer)
        training = TrainingOptions(seed=seed, steps=options.steps)
        resume = out.exists()
        run_train(options.config, out=str(out), resume=resume, regularizing=regularizing, training=training)


def collect(options: argparse.Namespace, regularizer: str, seed: int, passages: Path) -> dict[str, Any]:
    """Everything that is known of a run, whether it is finished or not."""
    out = folder_of(options, regularizer, seed)
    settings = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    if settings != asdict(read_recipe(options.config).but(changes_of(options, regularizer, seed))):
        raise SystemExit(f"{out} is a run of another recipe: give another --runs")
    series = Dynamics.load(out / LINEARITY / SERIES).to_dict()
    losses = {line["step"]: line["heldout_loss"] for line in read_curve(out / CURVE) if "heldout_loss" in line}
    found = {"regularizer": regularizer, "seed": seed, "settings": settings}
    found |= {name: series[name] for name in ("steps", "mean", "blocks")}
    found["heldout_loss"] = [losses.get(step) for step in series["steps"]]
    if options.reports:
        keep_reports(out / LINEARITY, results.ROOT / "benchmarks/results" / name_of(options) / out.name)
    return found | (finished(str(out / MODEL), passages) if (out / MODEL).exists() else {})


def finished(model: str, passages: Path) -> dict[str, Any]:
    """What only a trained decoder is asked: bits per byte of the held-out modules, scores on them, and the probes."""
    loaded = load_pretrained(model, dtype="float32")
    window = {"window": loaded.context, "stride": loaded.context // 2}
    loss = text_loss(loaded.model, loaded.tokenizer, Source(str(EMBEDDED_TEXT)).documents(), **window)
    text = Text(TextOptions(text=str(EMBEDDED_TEXT), tokens=SCORED))
    batches = text.batches(loaded.tokenizer, loaded.context, loaded.model.device)
    report = linscore.score(loaded.model, batches, folds=2, spectra=False)
    scored = ScoredCheckpoint.of(Checkpoint(0, model), None, report)
    labelled = LabelledOptions(data=str(passages), text_field="text", label_field="module")
    probing = run_probe(model, labelled=labelled, probing=ProbeOptions(pool="mean"))
    print(f"measured   {model}: {loss.bits_per_byte:.4f} bits per byte", flush=True)
    probes = {"texts": probing.texts, "majority": probing.majority, "layers": [asdict(one) for one in probing.layers]}
    scores = {"mean": {figure: scored.mean(figure) for figure in FIGURES}, "blocks": scored.blocks}
    return {"bits_per_byte": loss.bits_per_byte, "final": scores, "probes": probes}


def keep_reports(series: Path, folder: Path) -> None:
    """Copy the series and the report of every checkpoint."""
    for source in (series / SERIES, *series.glob(f"*/{REPORT}")):
        target = folder / source.relative_to(series)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def write_passages(path: Path) -> None:
    """Passages of the held-out modules and the modules' names, at most PASSAGES of each, as jsonl."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for module in sorted(EMBEDDED_TEXT.glob("*.py.txt")):
            text = module.read_text(encoding="utf-8")
            starts = range(0, len(text) - PASSAGE, PASSAGE)
            for start in sorted(draw.sample(starts, min(PASSAGES, len(starts)))):
                row = {"text": text[start : start + PASSAGE], "module": module.name.removesuffix(".py.txt")}
                file.write(json.dumps(row) + "\n")


def folder_of(options: argparse.Namespace, regularizer: str, seed: int) -> Path:
    return Path(options.runs) / Path(options.config).stem / f"{regularizer}-{seed}"


def changes_of(options: argparse.Namespace, regularizer: str, seed: int) -> dict[str, Any]:
    return {"regularizer": regularizer, "seed": seed, "steps": options.steps}


def name_of(options: argparse.Namespace) -> str:
    return f"regularized-{Path(options.config).stem}"


def main() -> None:
    """Train what is missing, measure, and write tables and pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="1M", help="as linscore train takes it")
    parser.add_argument("--regularizers", default="none,cosine,mse")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, help="in place of the recipe's")
    parser.add_argument("--runs", required=True, help="folder for the runs, gone on with where there are some")
    parser.add_argument("--beside", help="a decoder that bits per byte and probes are measured of, too")
    parser.add_argument("--collect", action="store_true", help="train nothing")
    parser.add_argument("--reports", action="store_true", help="keep the report of every checkpoint")
    options = parser.parse_args()
    members = list(product(options.regularizers.split(","), map(int, options.seeds.split(","))))
    if not options.collect:
        for member in members:
            train(options, *member)
    with tempfile.TemporaryDirectory() as folder:
        passages = Path(folder) / "passages.jsonl"
        write_passages(passages)
        found: dict[str, Any] = {
            "config": options.config,
            "facts": results.facts(),
            "runs": [collect(options, *member, passages) for member in members],
        }
        if options.beside:
            found["beside"] = {"model": options.beside, **finished(options.beside, passages)}
    path = results.ROOT / "benchmarks/results" / f"{name_of(options)}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(regularized_tables.markdown(found), encoding="utf-8")
    pictures = regularized_tables.draw(found, path)
    print(path, path.with_suffix(".md"), *pictures, sep="\n")


if __name__ == "__main__":
    main()
