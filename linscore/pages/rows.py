"""The JSON forms of reports and series as flat rows, one a block, which is what charts and tables are drawn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from linscore.pages.words import TABLES

Row = dict[str, Any]
Datasets = dict[str, list[Row]]

EMPTY: Mapping[str, Mapping[str, Any]] = {}
LABEL = 48  # characters of a name, in legends and headings


def datasets(
    reports: Sequence[Mapping[str, Any]],
    series: Mapping[str, Mapping[str, Any]] = EMPTY,
    tokens: Sequence[Mapping[str, Any]] = (),
    lenses: Sequence[Mapping[str, Any]] = (),
) -> Datasets:
    """Everything that is drawn: `blocks`, `parts`, `spans` and `looks` of reports, `steps` of series of checkpoints.

    Of the errors of single tokens `knowing`, a row for each block, `shares`, one for each bin, `worst` and `types`; of
    lenses `depths`, and of any two depths `pairs`.

    Args:
        reports: as `Report.to_dict` gives them.
        series: by their names, as `Dynamics.to_dict`.
        tokens: as `TokenErrors.to_dict`.
        lenses: as `Lens.to_dict`.
    """
    found: Datasets = {name: [] for name in TABLES}
    for name, report in zip(labels([report["model"] for report in reports]), reports, strict=True):
        for block in report["blocks"]:
            row = {"model": name} | _place(block["index"], report["depth"])
            found["blocks"].append(row | _flat(block))
            found["parts"] += [row | {"part": part} | _flat(of) for part, of in (block["sub_blocks"] or {}).items()]
        found["spans"] += [{"model": name} | _flat(span) for span in report["spans"]]
        found["looks"] += _looks(name, report)
    for name, one in zip(labels(list(series)), series.values(), strict=True):
        found["steps"] += list(_steps(name, one))
    for name, one in zip(labels([of["model"] for of in tokens]), tokens, strict=True):
        for block in one["blocks"]:
            for dataset, rows in _of_tokens(name, block, one["depth"]).items():
                found[dataset] += rows
    for name, one in zip(labels([of["model"] for of in lenses]), lenses, strict=True):
        found["depths"] += [{"model": name} | dict(depth) for depth in one["depths"]]
        found["pairs"] += list(_pairs(name, one["similarity"]))
    return {name: rows for name, rows in found.items() if rows}


def labels(names: Sequence[str]) -> list[str]:
    """A name for each that a legend has room for; two of one name are numbered."""
    short = [name if len(name) <= LABEL else f"{name[: LABEL // 2]}…{name[-LABEL // 2 :]}" for name in names]
    times, seen = Counter(short), Counter[str]()
    found = []
    for name in short:
        seen[name] += 1
        found.append(f"{name} ({seen[name]})" if times[name] > 1 else name)
    return found


def _place(index: int, depth: int) -> Row:
    """Where a block stands: its index, and the share of the depth, 0 the first block and 1 the last."""
    return {"block": index, "depth": index / max(depth - 1, 1)}


def _flat(block: Mapping[str, Any]) -> Row:
    """The figures of a block; those without heavy rows are named so."""
    apart = {"index", "sub_blocks", "without_heavy"}
    light = block["without_heavy"] or {}
    return {key: value for key, value in block.items() if key not in apart} | {
        f"{key}_without_heavy": value for key, value in light.items()
    }


def _looks(name: str, report: Mapping[str, Any]) -> Iterator[Row]:
    """Held-out scores along the way, of every block."""
    for look in report.get("curve", ()):
        scores = {key: values for key, values in look.items() if isinstance(values, list)}
        for block, *values in zip(report["blocks"], *scores.values(), strict=False):
            row = {"model": name, "block": block["index"], "tokens": look["tokens"]}
            yield row | dict(zip(scores, values, strict=True))


def _steps(name: str, series: Mapping[str, Any]) -> Iterator[Row]:
    for place, step in enumerate(series["steps"]):
        for block in range(series["depth"]):
            figures = {key: values[place][block] for key, values in series["blocks"].items()}
            yield {"model": name, "step": step} | _place(block, series["depth"]) | figures


def _of_tokens(name: str, block: Mapping[str, Any], depth: int) -> Datasets:
    """The rows of one block: its figures, the bins of its histogram, and the tokens that it misses the most."""
    place = {"model": name} | _place(block["index"], depth)
    named = ("unexplained", "explained_by_token", "tokenwise", "linear", "tail_index", "rss")
    figures = {key: block[key] for key in named}
    total = sum(count for _, count in block["histogram"])
    bins = [place | {"log_share": low + 0.05, "part": count / total} for low, count in block["histogram"]]
    return {
        "knowing": [place | figures | {f"below {part}": value for part, value in block["quantiles"].items()}],
        "shares": bins,
        "worst": [place | dict(one) for one in block["worst"]],
        "types": [place | dict(one) for one in block["types"]],
    }


def _pairs(name: str, similarity: Mapping[str, Sequence[Sequence[float]]]) -> Iterator[Row]:
    """Of any two depths, the lower first: the matrices are symmetric."""
    for first in range(len(similarity["cka"])):
        for second in range(first, len(similarity["cka"])):
            values = {key: matrix[first][second] for key, matrix in similarity.items()}
            yield {"model": name, "first": first, "second": second} | values
