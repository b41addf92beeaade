"""Texts with labels, and a tokenizer that reads them."""

import csv
import json

from linscore.text.labelled import labelled_texts
from linscore.text.source import Source

CONTEXT = 6


def labelled(path, **fields):
    return labelled_texts(Source(str(path), None), **fields)


ROWS = [{"premise": f"x = {n}", "hypothesis": f"y = {n % 7}", "label": "odd" if n % 2 else "even"} for n in range(24)]


def written(folder, kind, rows=ROWS):
    path = folder / f"data.{kind}"
    if kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    elif kind == "parquet":
        import pyarrow
        from pyarrow.parquet import write_table

        write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)) + "\n\n")
    return str(path)
