"""Whether a decoder that was trained otherwise loses less under the same budget: a table.

    python -m benchmarks.studies.trained --runs DIR                                   # the pair that ships
    python -m benchmarks.studies.trained --runs DIR --config benchmarks/studies/early.yaml --shares 0.7,0.5,0.3

Decoders are trained plain, with `train`'s regularizers (mse, cosine), and with LayerNorm scaling (Sun et al., "The
curse of depth in large language models", 2502.05795): what leaves both norms of block l = 1, 2, … is divided by √l.
`linscore compress` then fits, chooses and reports on three parts of the held-out modules, which none has seen. Rows go
to benchmarks/results/compress/trained-NAME.json as they are known, and are not asked for again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import PreTrainedModel

import linscore
from benchmarks.studies.compress_rows import FOLDER, Row, Rows, grid, head
from linscore.embedded.shipped import EMBEDDED_TEXT, SHIPPED
from linscore.jobs import train as job
from linscore.jobs.compress import RESULT, run_compress
from linscore.models.load import load_pretrained
from linscore.options.cut import CompressOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.options.training import RegularizerOptions, TrainingOptions

SCALED = "scaled"  # LayerNorm scaling
KINDS = ("none", "mse", "cosine", SCALED)
NORMS = ("input_layernorm", "post_attention_layernorm")  # of Llama and Mistral, which read the stream


def trained(options: argparse.Namespace, kind: str, seed: int) -> str:
    """The folder of a decoder of the recipe, trained unless that was done."""
    out = Path(options.runs) / Path(options.config).stem / f"{kind}-{seed}"
    model = out / job.MODEL
    if not model.exists():
        print(f"training {out.name}", flush=True)
        regularizing = RegularizerOptions(regularizer="none" if kind == SCALED else kind)
        training = TrainingOptions(seed=seed, steps=options.steps)
        with scaling() if kind == SCALED else _as_it_is():
            job.run_train(
                options.config, out=str(out), resume=out.exists(), regularizing=regularizing, training=training
            )
    return str(folded(model)) if kind == SCALED else str(model)


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


@contextmanager
def scaling() -> Iterator[None]:
    """New decoders are trained with their norms' outputs divided by √l; weights are saved without that factor."""
    made = job.new_model

    def new_model(*given: Any) -> PreTrainedModel:
        model = made(*given)
        for norm, factor in norms(model):
            norm.register_forward_hook(lambda _norm, _args, output, factor=factor: output * factor)
        return model

    with patch.object(job, "new_model", new_model):
        yield


def norms(model: PreTrainedModel) -> Iterator[tuple[torch.nn.Module, float]]:
    """The norms of every block that read the stream, and what their outputs are multiplied by."""
    for number, block in enumerate(linscore.find_decoder(model).blocks, start=1):
        yield from ((block.get_submodule(name), number**-0.5) for name in NORMS)


def folded(folder: Path) -> Path:
    """A plain checkpoint that computes what was trained: the factors in the norms' gains."""
    plain = folder.with_name("plain")
    if not plain.exists():
        loaded = load_pretrained(str(folder), dtype="float32", device="cpu")
        with torch.no_grad():
            for norm, factor in norms(loaded.model):
                norm.weight.mul_(factor)  # type: ignore[operator, union-attr]
        loaded.model.save_pretrained(plain)
        loaded.tokenizer.save_pretrained(plain)
    return plain


def shares(options: argparse.Namespace) -> tuple[float, ...]:
    """What of the blocks' parameters stays."""
    return tuple(map(float, options.shares.split(",")))


def measure(rows: Rows, name: str, model: str, options: argparse.Namespace) -> None:
    """What each share costs a decoder, cut and healed."""
    before: str | None = None
    for share in shares(options):
        out = Path(options.runs) / f"{rows.path.stem}-{name}-{share}"
        if not rows.has(name, share):
            if not out.exists():
                wanted = CompressOptions(params=share, measure_tokens=options.measure_tokens, measured=before)
                text = TextOptions(text=str(EMBEDDED_TEXT), tokens=options.tokens)
                place = PlaceOptions(dtype="float32", device="cpu")
                again = out.with_name(f"{out.name}.search").exists()
                run_compress(model, out=str(out), wanted=wanted, text=text, place=place, resume=again)
            result = json.loads((out / RESULT).read_text(encoding="utf-8"))
            losses, last = result["losses"], result["steps"][-1]
            added = {one: losses[one] - losses["whole"] for one in ("cut", "healed")}
            rows.add({"row": name, "share": share, "whole": losses["whole"], **added, "saved": last["saved"]})
        before = str(out)


def markdown(found: Mapping[str, Any]) -> str:
    """Loss added, mean and standard deviation over seeds, of each kind of training."""
    rows = [row | {"row": row["row"].partition(" ")[0]} for row in found["rows"]]
    lines = [*head(f"What was trained otherwise, compressed: {found['about']['name']}", found), ""]
    stay = list(dict.fromkeys(row["share"] for row in rows))
    wholes = {name: _mean(rows, name, stay[0], "whole", "{:.4f}") for name in dict.fromkeys(r["row"] for r in rows)}
    lines += ["Loss of the whole decoder, nats per token: " + ", ".join(f"{k} {v}" for k, v in wholes.items()), ""]
    for figure, title in (("healed", "Loss added, healed in closed form"), ("cut", "Loss added, not healed")):
        cells = [{"row": row["row"], "share": row["share"]} for row in rows]
        made = grid(cells, stay, lambda one, figure=figure: _mean(rows, one["row"], one["share"], figure, "{:+.4f}"))  # type: ignore[misc]
        lines += [f"{title}:", "", *made, ""]
    return "\n".join(lines)


def _mean(rows: list[Row], name: str, share: float, figure: str, style: str) -> str:
    values = [row[figure] for row in rows if (row["row"], row["share"]) == (name, share)]
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.4f}, {len(values)} seeds" if len(values) > 1 else ""
    return style.format(statistics.mean(values)) + spread


def main() -> None:
    """Train what is missing, compress each, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", required=True, help="folder for what is trained and saved, gone on with")
    parser.add_argument("--config", help="a recipe as linscore train takes it [the decoders that ship, as they are]")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--shares", default="0.9,0.8,0.7", help="of the blocks' parameters that stay")
    parser.add_argument("--steps", type=int, help="in place of the recipe's")
    parser.add_argument("--tokens", type=int, default=65_536, help="of the held-out modules, half to fit on")
    parser.add_argument("--measure-tokens", type=int, default=8192, help="to choose on, and as many to report on")
    options = parser.parse_args()
    name = Path(options.config).stem if options.config else "shipped"
    about = {one: getattr(options, one) for one in ("tokens", "measure_tokens", "steps")}
    rows = Rows(FOLDER / f"trained-{name}.json", {"name": name, **about}, markdown)
    if not options.config:
        for shipped in SHIPPED:
            measure(rows, shipped, shipped, options)
    else:
        for seed in map(int, options.seeds.split(",")):
            for kind in options.kinds.split(","):
                measure(rows, f"{kind} {seed}", trained(options, kind, seed), options)
    print(rows.path, rows.table, sep="\n")


if __name__ == "__main__":
    main()
