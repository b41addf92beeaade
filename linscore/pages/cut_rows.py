"""The JSON forms of cut models as flat rows: what they cost over what they save, and losses of training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from linscore.pages.rows import Datasets, Row, labels
from linscore.spans import Unit

Cut = Mapping[str, Any]

SEARCHED, FURTHER, DROPPED, LEFT_OUT = "searched", "searched to the end", "dropped", "left out, no map yet"
ENDS = {"cut": "cut, on unseen text", "healed": "healed, on unseen text"}
TRAINED = {"before": "KL before training", "after": "KL after training"}
LINES = (SEARCHED, FURTHER, DROPPED, LEFT_OUT)  # of several points; the others are single ones
KINDS = (*LINES, *ENDS.values(), *TRAINED.values())
MOST = 400  # steps of a training that are drawn


def cut_datasets(cuts: Mapping[str, Cut]) -> Datasets:
    """`cuts`, a row for each point of a cost curve, and `trained`, one for each step of a distillation.

    A point says which shares of the model's parameters (`parameters_gone`) and cache are gone, and how many nats
    a token are `added` to the loss of the whole model on the same text.

    Args:
        cuts: by their names: `record`, `compressed` (what compress.json holds) and `losses` (lines of losses.jsonl).
    """
    found: Datasets = {"cuts": [], "trained": []}
    for name, cut in zip(labels(list(cuts)), cuts.values(), strict=True):
        place = {"model": name, "of": cut["record"]["model"]}
        rows = _trained(cut["record"]) if cut["record"]["distilled"] else (*_chosen(cut["record"]), *_searched(cut))
        found["cuts"] += [place | row for row in rows]
        losses = cut["losses"][:: max(1, len(cut["losses"]) // MOST)]
        found["trained"] += [place | dict(line) for line in losses]
    return {name: rows for name, rows in found.items() if rows}


def gone(record: Mapping[str, Any]) -> Row:
    """The shares of the whole model that are gone."""
    return {
        "parameters_gone": _share(record["parameters_before"], record["parameters"]),
        "cache_gone": _share(record["kv_bytes_per_token_before"], record["kv_bytes_per_token"]),
    }


def _share(before: int | None, after: int | None) -> float | None:
    return 1 - after / before if before and after is not None else None


def _point(kind: str, step: int, went: str, shares: Mapping[str, float | None], added: float) -> Row:
    return {"kind": kind, "step": step, "went": went, **shares, "added": added}


def _chosen(record: Mapping[str, Any]) -> Iterator[Row]:
    """What was measured as blocks were chosen, with them left out.

    Each block is taken to hold the same. Where they were measured each alone, nothing is known of several.
    """
    choice = record["choice"]
    if choice is None or choice["whole"] is None or not (choice["sequential"] or len(choice["figures"]) == 1):
        return
    kind, whole, shares = (
        DROPPED if record["operation"] == "drop" else LEFT_OUT,
        math.log(choice["whole"]),
        gone(record),
    )
    yield _point(kind, 0, "", dict.fromkeys(shares, 0.0), 0.0)
    sizes = [sum(len(Unit.parse(part).span.blocks) for part in span.split(",")) for span in choice["figures"]]
    for step, (span, perplexity) in enumerate(choice["figures"].items(), 1):
        part = sum(sizes[:step]) / sum(sizes)
        own = {key: None if share is None else share * part for key, share in shares.items()}
        yield _point(kind, step, span, own, math.log(perplexity) - whole)


def _searched(cut: Cut) -> Iterator[Row]:
    """The steps of a search under a budget, and what became of the loss on text that nobody had seen."""
    compressed, record = cut["compressed"], cut["record"]
    if compressed is None:
        return
    shares, steps = gone(record), compressed["steps"]
    counted = "cache_gone" if compressed["budget"].startswith("kv") else "parameters_gone"
    most = steps[-1]["saved"]
    unit = shares[counted] / most if most and shares[counted] is not None else None  # of the model, not of its blocks
    # Of neither a figure nor a time: what is drawn are nats over what is held.
    drawn = unit is not None and compressed.get("by") is None and not compressed["budget"].startswith("latency")
    for kind, points in ((SEARCHED, steps), (FURTHER, sorted(compressed["curve"], key=lambda one: one["saved"]))):
        before: Mapping[str, str] = {}
        for number, point in enumerate(points if drawn else ()):
            went = ", ".join(f"{name} {form}" for name, form in point["choice"].items() if before.get(name) != form)
            own = {key: unit * point["saved"] if key == counted else None for key in shares}
            yield _point(kind, number, went, own, point["loss"] - steps[0]["loss"])
            before = point["choice"]
    losses = compressed["losses"]
    for key, kind in ENDS.items():
        if key in losses:
            yield _point(kind, len(steps) - 1, "", shares, losses[key] - losses["whole"])


def _trained(record: Mapping[str, Any]) -> Iterator[Row]:
    """How far from the original a distillation began and ended, on the text that it is trained on."""
    for key, kind in TRAINED.items():
        distance = ((record["distilled"] or {}).get(key) or {}).get("kl")
        if distance is not None:
            yield _point(kind, 0, "", gone(record), distance)
