"""Pages of the notebooks: their text, their code, and what was printed when they ran."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page beside each notebook, which can be had from there as it is."""
    for path in sorted(Path(config.docs_dir).glob("notebooks/*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        parts = [part for cell in cells for part in shown(cell)]
        content = "\n\n".join([*parts, f"[This notebook]({path.name}) to run yourself."])
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=content))
    return files


def shown(cell: dict[str, Any]) -> list[str]:
    """A cell in Markdown."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    printed = "".join("".join(output.get("text", ())) for output in cell["outputs"])
    return [f"```python\n{source}\n```", *([f"```text\n{printed.rstrip()}\n```"] if printed else [])]
