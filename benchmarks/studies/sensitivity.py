"""Does a figure predict what cutting a unit costs? Every figure beside the loss that was measured, for one decoder.

    python -m benchmarks.studies.sensitivity                                    # the built-in decoder
    python -m benchmarks.studies.sensitivity FOLDER --train FILE --test FILE    # any other

Each attention, MLP and block is dropped, then replaced by its affine map, alone, and the loss of unseen text measured.
Figures come from two disjoint parts of the training text, maps from the first. Beside the figures of the report stands
½ E[(g·R)²], the same thing token by token, which no moments give. Results go to
benchmarks/results/sensitivity-NAME.json and .md; some ten minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

import linscore
from benchmarks import results
from benchmarks.studies.surgery import training_text
from linscore.decoder.call import evaluating
from linscore.decoder.gradients import loss_gradients
from linscore.decoder.run import watch
from linscore.decoder.states import BlockStates, entering_state, first_tensor
from linscore.decoder.sub_blocks import find_sub_blocks
from linscore.embedded.shipped import EMBEDDED, EMBEDDED_TEXT
from linscore.evaluation.perplexity import batch_loss
from linscore.models.load import load_pretrained
from linscore.options.text import TextOptions
from linscore.spans import PARTS, Span, Unit
from linscore.text.source import Text

# Figures of a report, and what is to rise with the damage.
FIGURES: dict[str, Callable[[Any], float]] = {
    "1 − linearity, held out": lambda one: 1 - one.linearity_heldout,
    "1 − linearity w/o residual, held out": lambda one: 1 - one.linearity_no_residual_heldout,
    "relative error": lambda one: one.relative_error,
    "block influence": lambda one: one.block_influence,
    "angular distance": lambda one: one.angular_distance,
    "‖δ‖/‖x‖": lambda one: one.delta_ratio,
    "‖δ‖": lambda one: one.norm_delta,
}
FORMS = ("drop", "full")
MOMENTS, DIRECT = "expected loss, from moments", "expected loss, token by token"
Delta = Callable[[Tensor], Tensor]  # of [.., d] states entering a unit, what stands for its contribution


class Study:
    """One decoder, its units, the maps that stand for them, and what was found."""

    def __init__(self, model: Any, options: argparse.Namespace) -> None:
        self.decoder, self.options = linscore.find_decoder(model), options
        self.sub_blocks = find_sub_blocks(self.decoder)
        spans = [Span(index, index) for index in range(len(self.decoder.blocks))]
        self.units = [Unit(span, part) for part in (*PARTS, "") for span in spans]
        self.maps: dict[tuple[Unit, str], Delta] = {}

    def score(self, batches: list[dict[str, Tensor]]) -> linscore.Report:
        """All figures of one text."""
        asked: dict[str, Any] = {"sub_blocks": True, "sensitivity": self.options.sensitivity, "spectra": False}
        return linscore.score(self.decoder.model, batches, **asked)

    def fit(self, moments: dict[str, linscore.Moments]) -> None:
        """What stands for every unit in every form."""
        for unit in self.units:
            b, mean_x, mean_delta = _affine(moments[f"block.{unit}"])
            self.maps[unit, "drop"] = torch.zeros_like
            self.maps[unit, "full"] = lambda x, b=b, m=mean_x, d=mean_delta: (x.float() - m) @ b + d

    def loss(self, batches: list[dict[str, Tensor]], unit: Unit | None = None, form: str = "drop") -> float:
        """Nats a token, with one unit replaced."""
        replaced = nullcontext() if unit is None else self._replaced(unit, self.maps[unit, form])
        with torch.no_grad(), evaluating(self.decoder.model), replaced:
            found = [batch_loss(self.decoder.model, batch["input_ids"]) for batch in batches]
        losses, counts = zip(*found, strict=True)
        return sum(losses) / sum(counts)

    @contextmanager
    def _replaced(self, unit: Unit, delta: Delta) -> Iterator[None]:
        block, entering = self.decoder.blocks[unit.span.first], list[Tensor]()
        attention, mlp = (block.get_submodule(getattr(self.sub_blocks, part)) for part in PARTS)
        late = unit.part == "mlp" and not self.sub_blocks.parallel

        def begin(_block: Any, args: Any, kwargs: Any) -> None:
            entering[:] = [entering_state(args, kwargs)]

        def add(_module: Any, _args: Any, output: Any) -> None:
            entering[0] = entering[0] + first_tensor(output)

        def replace(_module: Any, _args: Any, output: Any) -> Any:
            state = first_tensor(output)
            stands = delta(entering[0]).reshape(state.shape) + (0 if unit.part else entering[0])
            return stands.to(state.dtype) if isinstance(output, Tensor) else (stands.to(state.dtype), *output[1:])

        with ExitStack() as hooks:
            hooks.callback(block.register_forward_pre_hook(begin, with_kwargs=True).remove)
            if late:
                hooks.callback(attention.register_forward_hook(add).remove)
            target = {"attention": attention, "mlp": mlp, "": block}[unit.part]
            hooks.callback(target.register_forward_hook(replace).remove)
            yield

    def direct(self, batches: list[dict[str, Tensor]]) -> dict[tuple[Unit, str], float]:
        """½ E[(g·R)²] of every unit and form."""
        sums, rows = dict.fromkeys(self.maps, 0.0), 0
        for batch in batches:
            states: dict[int, BlockStates] = {}

            def receive(index: int, part: str | None, gradient: Tensor, states: Any = states) -> None:
                for unit, form in self.maps:
                    read = "attention" if unit.part == "attention" and not self.sub_blocks.parallel else None
                    if unit.span.first == index and read == part:
                        missed = _missed(states[index], unit, self.maps[unit, form])
                        sums[unit, form] += float((gradient * missed).sum(-1).double().square().sum())

            asked = None if self.sub_blocks.parallel else self.sub_blocks
            with watch(self.decoder, states.__setitem__, sub_blocks=self.sub_blocks):
                loss_gradients(self.decoder, batch["input_ids"], receive, range(len(self.decoder.blocks)), asked)
            rows += batch["input_ids"][:, 1:].numel()
        return {one: total / 2 / rows for one, total in sums.items()}


def _affine(moments: linscore.Moments) -> tuple[Tensor, Tensor, Tensor]:
    fitted = linscore.fit_block_map(moments)
    return fitted.b.float(), fitted.mean_x.float(), fitted.mean_delta.float()


def _missed(states: BlockStates, unit: Unit, delta: Delta) -> Tensor:
    x, y = (states.mlp_input, None) if unit.part == "mlp" else (states.x, states.y)
    added = getattr(states, unit.part) if unit.part else y - states.x
    return (added - delta(x)).detach()


def measure(study: Study, texts: list[list[dict[str, Tensor]]], test: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Every unit in every form: what was measured, and all figures of each text."""
    started = time.perf_counter()
    reports = [study.score(text) for text in texts]
    scored = time.perf_counter() - started
    study.fit(reports[0].moments)
    direct = [study.direct(_first(text, study.options.sensitivity)) for text in texts]
    whole, rows = study.loss(test), []
    for unit in study.units:
        for form in FORMS:
            row: dict[str, Any] = {"unit": str(unit), "part": unit.part or "block", "form": form}
            row["added"] = study.loss(test, unit, form) - whole
            row["figures"] = []
            for report, token_by_token in zip(reports, direct, strict=True):
                block = report.blocks[unit.span.first]
                one = block.sub_blocks[unit.part] if unit.part else block
                found = {name: figure(one) for name, figure in FIGURES.items()}
                found |= {MOMENTS: one.expected_losses[form], DIRECT: token_by_token[unit, form]}
                row["figures"].append(found)
            rows.append(row)
            print(f"{unit!s:<14}{form:<6} added {row['added']:+.4f}  expected {found[MOMENTS]:.4f}", flush=True)
    return {"loss": whole, "seconds of both scores": round(scored, 1), "rows": rows, **_summary(rows)}


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rank correlations with the measured loss for each kind of unit and all, and how far expectations are off."""
    ranks, ratios, stable = [], [], []
    for form, part in itertools.product(FORMS, (*PARTS, "block", "all")):
        some = [row for row in rows if row["form"] == form and part in (row["part"], "all")]
        added = [row["added"] for row in some]
        for name in some[0]["figures"][0]:
            of_texts = [[row["figures"][text][name] for row in some] for text in (0, 1)]
            found = [round(float(spearmanr(of_text, added).statistic), 3) for of_text in of_texts]
            ranks.append({"form": form, "units": part, "figure": name, "spearman": found})
            if name == MOMENTS:
                stable.append(
                    {"form": form, "units": part, "spearman": round(float(spearmanr(*of_texts).statistic), 3)}
                )
        off = sorted(row["figures"][0][MOMENTS] / row["added"] for row in some if row["added"] > 1e-3)
        if off:
            ratios.append(
                {"form": form, "units": part, "least": off[0], "median": statistics.median(off), "most": off[-1]}
            )
    return {"ranks": ranks, "expected over added": ratios, "one text against the other": stable}


def markdown(found: dict[str, Any]) -> str:
    """The rank correlations as a table: both texts in a cell."""
    columns = list(itertools.product(FORMS, (*PARTS, "block", "all")))
    lines = [f"# What predicts the damage to {found['model']}", ""]
    lines += [f"- {name}: {value}" for name, value in found["facts"].items()]
    lines += [f"- {name}: {value}" for name, value in found["texts"].items()]
    lines += [f"- uncut: loss {found['loss']:.4f} nats a token", ""]
    lines += ["Spearman's rank correlation with the loss added on unseen text; figures of the first / second text.", ""]
    lines += ["| figure | " + " | ".join(f"{form}, {part}" for form, part in columns) + " |", "|---" * 9 + "|"]
    for name in dict.fromkeys(row["figure"] for row in found["ranks"]):
        cells = {(row["form"], row["units"]): row["spearman"] for row in found["ranks"] if row["figure"] == name}
        shown = (" / ".join(f"{value:.2f}" for value in cells[column]) for column in columns)
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    lines += ["", "Expected over added loss, units that add more than .001:", ""]
    for row in found["expected over added"]:
        lines.append(
            f"- {row['form']}, {row['units']}: {row['least']:.2f} to {row['most']:.2f}, median {row['median']:.2f}"
        )
    return "\n".join(lines) + "\n"


def _first(batches: list[dict[str, Tensor]], tokens: int) -> list[dict[str, Tensor]]:
    """As many of the first batches as hold so many tokens."""
    ends = itertools.accumulate(batch["input_ids"].numel() for batch in batches)
    return [batch for batch, end in zip(batches, ends, strict=True) if end - batch["input_ids"].numel() < tokens]


def main() -> None:
    """Measure one decoder and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=EMBEDDED)
    parser.add_argument("--train", help="text for figures and maps; the built-in decoder has one")
    parser.add_argument("--test", help="text to measure on")
    parser.add_argument("--tokens", type=int, default=65_536, help="of each half of the training text")
    parser.add_argument("--sensitivity", type=int, default=16_384, help="of those, for gradients")
    parser.add_argument("--measured", type=int, default=16_384, help="tokens of the test text")
    options = parser.parse_args()
    loaded = load_pretrained(options.model, dtype="float32", device="cpu")

    def read(path: str, tokens: int) -> list[dict[str, Tensor]]:
        text = Text(TextOptions(text=path, tokens=tokens, batch_size=8))
        return list(text.batches(loaded.tokenizer, loaded.context, loaded.model.device))

    with tempfile.TemporaryDirectory() as folder:
        both = read(options.train or training_text(Path(folder)), 2 * options.tokens)
    half, test = len(both) // 2, read(options.test or str(EMBEDDED_TEXT), options.measured)
    found = {
        "model": Path(options.model).name,
        "facts": results.facts(),
        "texts": {name: getattr(options, name) for name in ("tokens", "sensitivity", "measured")},
    } | measure(Study(loaded.model, options), [both[:half], both[half:]], test)
    path = results.ROOT / "benchmarks" / "results" / f"sensitivity-{found['model']}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(found), encoding="utf-8")
    print(markdown(found), path, path.with_suffix(".md"), sep="\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
