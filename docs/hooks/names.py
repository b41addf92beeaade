"""Pages of every public name, a page a room, with what the docstrings say; no name can be forgotten."""

from __future__ import annotations

from importlib import import_module

import linscore_kernels
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import linscore

FOLDER = "names/"
# Names that need a package of their own, from the modules that say which.
BESIDE = ("linscore.sklearn.AffineMap", "linscore.torchmetrics.BlockLinearity", "linscore.compat.llm_microscope")


def pages() -> dict[str, list[str]]:
    """Each page's title, and the names on it: by the room that a name lives in, kernels last."""
    found: dict[str, list[str]] = {}
    for name in linscore.__all__:
        package, *rooms = linscore._HOMES[name].split(".")
        room = rooms[0] if package == "linscore" else "kernels"
        found.setdefault(room, []).append(f"linscore.{name}")
    kernels = found.pop("kernels", []) + [f"linscore_kernels.{name}" for name in linscore_kernels.__all__]
    return {**dict(sorted(found.items())), "kernels": kernels}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages where the navigation names their folder."""
    for part in config.nav or ():
        for entries in part.values():
            for entry in entries if isinstance(entries, list) else ():
                for title, place in entry.items():
                    if place == FOLDER:
                        entry[title] = [place + "index.md", *(f"{place}{room}.md" for room in (*pages(), "beside"))]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for room, names in pages().items():
        blocks = "\n".join(f"::: {name}\n" for name in names)
        lead = str(import_module(names[-1].partition(".")[0] if room == "kernels" else f"linscore.{room}").__doc__)
        content = f"# {room}\n\n{lead.splitlines()[0]}\n\n{blocks}"
        files.append(File.generated(config, f"{FOLDER}{room}.md", content=content))
    blocks = "\n".join(f"::: {name}\n" for name in BESIDE)
    content = f"# Beside other tools\n\nNames from modules that need those tools.\n\n{blocks}"
    files.append(File.generated(config, f"{FOLDER}beside.md", content=content))
    return files
