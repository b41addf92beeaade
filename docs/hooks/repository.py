"""Pages from outside docs/: the README as the home page, its neighbours, and the results of benchmarks."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

HOME = {"README.md": "index.md"}  # a file of the repository → where it is on the site, where that differs
OUTSIDE = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "kernels/README.md",
    "benchmarks/results/**/*.md",
    "benchmarks/results/**/*.png",
)
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def root_of(config: MkDocsConfig) -> Path:
    """The repository's folder."""
    return Path(config.docs_dir).parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside docs/."""
    root = root_of(config)
    for pattern in OUTSIDE:
        for path in sorted(root.glob(pattern)):
            name = path.relative_to(root).as_posix()
            files.append(File.generated(config, HOME.get(name, name), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    source = page.file.abs_src_path
    if source is None:  # made by another hook, which knows the site
        return markdown
    root, here = root_of(config), PurePosixPath(page.file.src_uri).parent

    def moved(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(Path(source).parent / link[1]))
        name = target.relative_to(root).as_posix() if target.is_relative_to(root) else ""
        uri = HOME.get(name, name.removeprefix("docs/"))
        return os.path.relpath(uri, here) if files.get_file_from_path(uri) else link[1]

    return _LINK.sub(moved, markdown)
