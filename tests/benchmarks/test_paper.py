"""The table of the paper's claims, of results that were made up."""

from benchmarks.paper.claims import table
from benchmarks.paper.setting import Setting


def test_a_claim_agrees_where_its_figures_do():
    costs = {"dropped": {"1": 0.3}, "replaced": {"1": 0.2}, "distilled": {"1": 0.1}}
    lines = table({"Figures 6 to 8": costs, "Figure 2": {"first": 0.5, "last": 0.6, "seeds": 3}}).splitlines()
    verdicts = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in lines[2:]}
    assert verdicts["Figures 6 to 8"] == "agrees"
    assert verdicts["Figure 2"] == "disagrees"
    assert verdicts["Table 3"] == "not measured"
    assert "Figure 1" not in verdicts


def test_labelled_pieces_come_from_the_text_that_ships(tmp_path):
    at = Setting(tmp_path / "new")
    rows = at.labelled.read_text().splitlines()
    assert len(rows) == 4 * 120
    assert 300_000 < len(at.training_text.read_text()) <= 400_000
