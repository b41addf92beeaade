"""Pages: everything that is drawn is what report.json says, and nothing in a name is more than a name."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from browser import CHROMIUM, found_in

from linscore import LinscoreError, Report
from linscore.machine import extras
from linscore.pages.cut_rows import cut_datasets
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


RECORD = {
    "operation": "drop",
    "model": "embedded",
    "depth_before": 10,
    "depth": 8,
    "parameters_before": 1000,
    "parameters": 800,
    "flops_per_token_before": 500,
    "flops_per_token": 400,
    "kv_bytes_per_token_before": None,
    "kv_bytes_per_token": None,
    "choice": {"whole": math.e, "sequential": True, "figures": {"4": math.exp(1.1), "6": math.exp(1.5)}},
    "distilled": None,
}
SEARCH = {
    "budget": "params 0.8",
    "steps": [
        {"choice": {}, "saved": 0.0, "loss": 2.0},
        {"choice": {"3.mlp": "drop"}, "saved": 0.125, "loss": 2.25},
        {"choice": {"3.mlp": "drop", "1": "mean"}, "saved": 0.25, "loss": 2.5},
    ],
    "curve": [],
    "losses": {"whole": 3.0, "cut": 3.5, "healed": 3.25},
}
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
    cuts = {"small": {"record": RECORD, "compressed": SEARCH, "losses": []}}
    drawn, said = found_in(
        page_of([full, deep], {"run": series(3)}, [by_token()], cuts=cuts),
        "{rows: symbols(views['chart-0'].scenegraph().root).filter((row) => row?.key === 'linearity_heldout'),"
        " marks: Object.keys(views).map((id) => document.querySelectorAll(`#${id} path`).length),"
        " costs: Object.values(views).flatMap((view) => symbols(view.scenegraph().root))"
        "   .filter((row) => row && 'added' in row),"
        " cut: ((cut) => (cut.querySelector('td input:not(:checked)').click(), [cut.querySelector('.sum').textContent,"
        " ...[...cut.querySelectorAll('pre')].map((one) => one.textContent)]))(document.querySelector('.cut')),"
        " slid: await (async (slider) => { slider.value = 1; slider.dispatchEvent(new Event('input'));"
        "   for (const view of Object.values(views)) await view.runAsync();"
        "   return Object.values(views).flatMap((view) => symbols(view.scenegraph().root))"
        "     .filter((row) => row?.key === 'linearity_heldout' && 'step' in row).map((row) => [row.step, row.value]);"
        "   })(document.querySelector('input[type=range]')),"
        " painted: [...document.querySelectorAll('.heat pre span')].map((one) => one.textContent),"
        " asked: performance.getEntriesByType('resource').length, broken: window.broken ?? null}",
        tmp_path,
    )
    assert said == []
    assert drawn["asked"] == 0
    assert drawn["painted"] == by_token()["sample"]["tokens"]
    assert drawn["broken"] is None
    assert drawn["slid"] == [[10, value] for value in series(3)["blocks"]["linearity_heldout"][1]]
    assert sorted(row["added"] for row in drawn["costs"]) == sorted(
        cut_datasets(cuts)["cuts"][n]["added"] for n in range(8)
    )
    first, second = sorted(full.blocks, key=lambda block: block.block_influence)[:2]
    summed, *lines = drawn["cut"]
    assert summed.startswith(f"2 of 3 blocks · {2 * first.parameters:,} of {3 * first.parameters:,} parameters")
    gone = ",".join(map(str, sorted((first.index, second.index))))
    assert lines[0] == f"linscore prune tiny --drop {gone} --out cut"
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
    two = ",".join(map(str, sorted(index for _, index in sorted(influence)[:2])))
    page = page_of([deep], folders=["my scores"])
    assert f"linscore prune &#39;a model&#39; --drop <span>{two}</span> --out cut<" in page
    for tool in ("mergekit &gt; cut.yml &amp;&amp; mergekit-yaml cut.yml cut", "llama.cpp"):
        assert f"linscore rank &#39;my scores&#39; --drop <span>{two}</span> --format {tool}<" in page
    assert page.count(" checked>") == 2


def test_the_ranking_has_what_blocks_hold_and_says_where_that_is_not_known(full):
    """Llama of width 32, four heads of which two have keys, MLP of 48, in float32."""
    attention, mlp, kept = 32 * 32 * 2 + 32 * 16 * 2, 3 * 32 * 48, 2 * 16 * 4
    assert {(block.parameters, block.kv_bytes) for block in full.blocks} == {(attention + mlp + 64, kept)}
    assert page_of([full]).count(f"<td>{attention + mlp + 64:,}</td>") == 3
    old = replace(full, blocks=[replace(block, parameters=None, kv_bytes=None) for block in full.blocks])
    page = page_of([old])
    assert "what they hold is not in this report" in page
    assert json.loads(Elements(page).scripts["data"])["cuts"][0]["sums"] == {}


def test_what_cuts_cost_is_loss_over_what_is_gone():
    """A fifth of the parameters is gone, by two blocks; of a search, by a quarter of what its blocks hold."""
    pruned = {"record": RECORD, "compressed": None, "losses": []}
    became = {"distilled": {"before": {"kl": 0.25}, "after": {"kl": 0.125}}}
    trained = {"record": RECORD | became, "compressed": None, "losses": [{"step": 1, "kl": 0.5, "lm": None}]}
    searched = {"record": RECORD | {"choice": None}, "compressed": SEARCH, "losses": []}
    held = json.loads(
        Elements(page_of([], cuts={HOSTILE: pruned, "trained": trained, "small": searched})).scripts["data"]
    )
    cuts = held["columns"]["cuts"]
    drawn = list(zip(*(cuts[key] for key in ("kind", "parameters_gone", "added", "went")), strict=True))
    assert [(kind, went) for kind, _, _, went in drawn] == [
        ("dropped", ""),
        ("dropped", "4"),
        ("dropped", "6"),
        ("KL before training", ""),
        ("KL after training", ""),
        ("searched", ""),
        ("searched", "3.mlp drop"),
        ("searched", "1 mean"),
        ("cut, on unseen text", ""),
        ("healed, on unseen text", ""),
    ]
    assert [share for _, share, _, _ in drawn] == pytest.approx([0, 0.1, 0.2, 0.2, 0.2, 0, 0.1, 0.2, 0.2, 0.2])
    assert [added for _, _, added, _ in drawn] == pytest.approx([0, 0.1, 0.5, 0.25, 0.125, 0, 0.25, 0.5, 0.5, 0.25])
    assert held["columns"]["trained"]["kl"] == [0.5]
    alone = RECORD | {"choice": RECORD["choice"] | {"sequential": False}}
    one = page_of([], cuts={"a": {"record": alone, "compressed": None, "losses": []}})
    assert "cuts" not in json.loads(Elements(one).scripts["data"])["columns"]  # of two together nothing was measured
    assert "8 of 10" in one


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
