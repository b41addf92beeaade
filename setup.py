"""What the package's page shows beside pyproject.toml: the README with links that hold there, and addresses.

Where the repository is stands in no source: `make dist REPOSITORY=https://…` says it (docs/releasing.md). Links into it
become words without.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from setuptools import setup

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+(?:#[^)\s]*)?)\)(\n?)")  # [words](file or file#heading), not (#heading)
PAPER = "https://aclanthology.org/2024.acl-long.293"


def readme(text: str, repository: str, tag: str) -> str:
    """The README with its links to files made links into `repository` as of `tag`, or words where that is empty."""

    def outside(match: re.Match[str]) -> str:
        picture, words, target, newline = match.groups()
        if "://" in target:
            return match[0]
        if not repository:
            return "" if picture else words + newline
        return f"{picture}[{words}]({repository}/{'raw' if picture else 'blob'}/{tag}/{target}){newline}"

    return LINK.sub(outside, text)


def addresses(repository: str, tag: str) -> dict[str, str]:
    """What stands beside the page."""
    found = {"Paper": PAPER}
    if repository:
        found |= {
            "Source": repository,
            "Documentation": f"{repository}/tree/{tag}/docs",
            "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
            "Issues": f"{repository}/issues",
        }
    return found


if __name__ == "__main__":
    here = Path(__file__).parent
    repository = os.environ.get("LINSCORE_REPOSITORY", "").rstrip("/")
    found = re.search(r'^version = "(.+)"$', (here / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    setup(
        long_description=readme((here / "README.md").read_text(encoding="utf-8"), repository, f"v{found[1]}"),
        long_description_content_type="text/markdown",
        project_urls=addresses(repository, f"v{found[1]}"),
    )
