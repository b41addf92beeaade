"""Pages: everything that is drawn is what report.json says, and nothing in a name is more than a name."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from browser import CHROMIUM, found_in

from linscore import LinscoreError, Report
from linscore.machine import extras
from linscore.scoring.on_page import page_of

HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>" + "n" * 10_000
PLACES = {"index", "sub_blocks", "without_heavy"}


class Elements(HTMLParser):
    """Scripts of a page by id, and every start tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.tags: list[str] = []
        self._open: str | None = None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._open = dict(attrs).get("id", f"script-{len(self.scripts)}") if tag == "script" else self._open

    def handle_endtag(self, tag):
        self._open = None if tag == "script" else self._open

    def handle_data(self, data):
        if self._open is not None:
            self.scripts[self._open] = self.scripts.get(self._open, "") + data


def series(depth: int) -> dict:
    blocks = {name: [[0.1 * step + 0.01 * block for block in range(depth)] for step in range(3)] for name in SCORES}
    return {"steps": [0, 10, 200], "depth": depth, "tokens": 100, "blocks": blocks}


def by_token() -> dict:
    """The form of `TokenErrors`, with text that would be markup."""
    worst = {"share": 4.5, "before": "<b>", "token": HOSTILE, "after": "&lt;", "sequence": 0, "position": 1}
    block = {"unexplained": 0.4, "rss": 10.0, "quantiles": {"0.5": 0.3}, "tail_index": 3.0, "tokenwise": 0.2}
    block["explained_by_token"] = 0.25
    block |= {"linear": 0.6, "histogram": [(-1.0, 30), (-0.9, 10)], "worst": [worst], "types": []}
    sample = {"tokens": ["<i>", "b", HOSTILE], "shares": [[0.5, None, 4.5], [0.1, 0.2, 0.3]]}
    blocks = [{"index": 0} | block, {"index": 1} | block]
    return {"model": "tiny", "text": "t", "tokens": 40, "depth": 2, "blocks": blocks, "sample": sample}


SCORES = ("linearity_heldout", "linearity_no_residual_heldout")


def of_depth(report: Report, depth: int, name: str) -> Report:
    """The report of a deeper model whose blocks are those of `report` again and again."""
    blocks = [replace(report.blocks[index % len(report.blocks)], index=index) for index in range(depth)]
    more = depth // len(report.blocks) + 1
    curve = [
        replace(look, **{name: (getattr(look, name) * more)[:depth] for name in SCORES}) for look in report.curve * 5
    ]
    return replace(report, blocks=blocks, depth=depth, model=name, curve=curve)


def flat(block: dict) -> dict:
    return {key: value for key, value in block.items() if key not in PLACES}


def test_a_page_holds_every_figure_of_report_json(full):
    page = Elements(page_of([full]))
    held = json.loads(page.scripts["data"])
    report = json.loads(full.to_json())
    assert held["sources"] == [report]
    blocks, parts = held["columns"]["blocks"], held["columns"]["parts"]
    for place, block in enumerate(report["blocks"]):
        assert {key: blocks[key][place] for key in flat(block)} == flat(block)
        for row, (name, part) in zip((2 * place, 2 * place + 1), block["sub_blocks"].items(), strict=True):
            assert parts["part"][row] == name
            assert {key: parts[key][row] for key in flat(part)} == flat(part)
    assert held["columns"]["spans"]["angular_distance"] == [span["angular_distance"] for span in report["spans"]]
    looks = held["columns"]["looks"]["linearity_heldout"]
    assert looks == [value for look in report["curve"] for value in look["linearity_heldout"]]


def test_eighty_blocks_fit_into_a_page_and_names_stay_names(full):
    page = page_of([of_depth(full, 80, HOSTILE), of_depth(full, 2, HOSTILE)], {HOSTILE: series(5)})
    assert len(page.encode()) < 1.5e6
    elements = Elements(page)
    assert elements.tags.count("script") == 4  # data, specifications, Vega, and what draws
    assert "img" not in elements.tags
    held = json.loads(elements.scripts["data"])
    assert held["sources"][0]["model"] == HOSTILE
    assert max(map(len, held["columns"]["blocks"]["model"])) < 60
    assert len(set(held["columns"]["blocks"]["model"])) == 2


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_draws_what_report_json_says_and_asks_for_nothing(full, tmp_path):
    deep = of_depth(full, 7, HOSTILE)
    drawn, said = found_in(
        page_of([full, deep], {"run": series(3)}, [by_token()]),
        "{rows: symbols(views['chart-0'].scenegraph().root).filter((row) => row?.key === 'linearity_heldout'),"
        " marks: Object.keys(views).map((id) => document.querySelectorAll(`#${id} path`).length),"
        " painted: [...document.querySelectorAll('.heat pre span')].map((one) => one.textContent),"
        " asked: performance.getEntriesByType('resource').length, broken: window.broken ?? null}",
        tmp_path,
    )
    assert said == []
    assert drawn["asked"] == 0
    assert drawn["painted"] == by_token()["sample"]["tokens"]
    assert drawn["broken"] is None
    assert all(drawn["marks"])
    assert [row["value"] for row in drawn["rows"]] == [
        block.linearity_heldout for report in (full, deep) for block in report.blocks
    ]


def test_the_verdict_says_what_the_figures_say(full):
    (first, second) = re.findall(r'<p class="verdict">(.*?)</p>', page_of([full]))
    held = [block.linearity_heldout for block in full.blocks]
    assert f"{min(held):.1%} to {max(held):.1%}" in first
    influence = [block.block_influence for block in full.blocks]
    assert f"block {influence.index(min(influence))} is the easiest" in second


def test_the_cut_to_paste_is_that_of_the_ranking(full):
    deep = of_depth(full, 11, "a model")
    influence = [(block.block_influence, block.index) for block in deep.blocks]
    two = ",".join(str(index) for _, index in sorted(influence)[:2])
    assert f"linscore prune &#39;a model&#39; --drop {two} --out cut\n" in page_of([deep])


def test_a_notebook_shows_the_page_and_a_table(full):
    assert full._repr_html_().startswith("<iframe srcdoc=")
    frame = full.to_dataframe()
    assert list(frame["block"]) == [0, 1, 2]
    assert list(frame["delta_ratio"]) == [block.delta_ratio for block in full.blocks]


def test_what_a_page_needs_is_asked_for(full, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda module: None if module == "altair" else module)
    with pytest.raises(LinscoreError, match=r"a page needs altair: pip install 'linscore\[html\]'"):
        page_of([full])
    assert full._repr_html_() is None


def test_nothing_is_no_page():
    with pytest.raises(LinscoreError, match="nothing to show"):
        page_of([])
