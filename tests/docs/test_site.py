"""The site is built as `make docs` builds it, where every warning is an error, and read as a browser reads it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import linscore_kernels
import pytest

import linscore
from linscore.cli import COMMANDS

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """What a page fetches, which anchors it has, and its text outside of code."""

    def __init__(self, path):
        super().__init__()
        self.fetched, self.anchors, self.text, self._code = [], set(), "", 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors.add(values.get("id"))
        if tag in ("script", "img", "iframe", "source"):
            self.fetched.append(values.get("src") or "")
        if tag == "link" and values.get("rel") in ("stylesheet", "preload", "preconnect", "icon"):
            self.fetched.append(values.get("href") or "")
        self._code += tag in ("code", "script", "style")

    def handle_endtag(self, tag):
        self._code -= tag in ("code", "script", "style")

    def handle_data(self, data):
        self.text += data if not self._code else ""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[str, Page]:
    """Every page of a strict build, by its place."""
    mkdocs = pytest.importorskip("mkdocs.config", reason="needs mkdocs: pip install 'linscore[docs]'")
    from mkdocs.commands.build import build

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        patch.chdir(ROOT)
        build(mkdocs.load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return {path.relative_to(folder).as_posix(): Page(path) for path in folder.rglob("*.html")}


def test_every_public_name_and_every_command_is_there(site):
    names = {f"linscore.{name}" for name in linscore.__all__}
    names |= {f"linscore_kernels.{name}" for name in linscore_kernels.__all__}
    assert names <= set().union(*(page.anchors for place, page in site.items() if place.startswith("names/")))
    assert {command.name for command in COMMANDS} <= site["commands.html"].anchors


def test_what_comments_say_of_fields_is_there(site):
    text = site["names/statistics.html"].text
    assert "[d, e] float64, e = d but for a narrower δ" in text  # of FittedMap, from the class below it
    assert "what independent x and y would score" in text


def test_a_reader_asks_no_other_host_for_anything(site):
    fetched = [(place, url) for place, page in site.items() for url in page.fetched]
    assert len(fetched) > 100
    assert [one for one in fetched if re.match(r"(?:\w+:)?//", one[1])] == []


def test_no_markdown_is_left_over(site):
    """Tables, links and stress that Markdown did not take for what they are."""
    for place, page in site.items():
        assert not re.search(r"\|---|\]\(|\*\*|^:::|```", page.text, re.MULTILINE), place
