"""The folder of a series: what it holds, and what is left alone there."""

import pytest
from asked import asked
from series import SEQ_LEN, content

from linscore.dynamics.series import Dynamics
from linscore.errors import LinscoreError
from linscore.jobs.dynamics import run_dynamics
from linscore.scoring.report import Report

run_dynamics = asked(run_dynamics)

pytestmark = pytest.mark.usefixtures("one_thread", "no_picture")


def test_the_folder_holds_the_series_its_reports_and_a_picture(done):
    out, dynamics = done
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        "dynamics.json",
        "dynamics.png",
        "9/report.json",
        "10/report.json",
    }
    assert Dynamics.load(out / "dynamics.json") == dynamics
    report = Report.load(out / "10")
    assert [block.linearity_heldout for block in report.blocks] == dynamics.scored[1].blocks["linearity_heldout"]
    assert report.model == dynamics.scored[1].checkpoint.name
    assert (out / "dynamics.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ({"notes.txt": "mine"}, r"holds notes.txt but no dynamics.json"),
        ({"dynamics.json": "{}"}, r"dynamics.json is damaged"),
    ],
)
def test_a_foreign_folder_is_left_alone(runs, text, tmp_path, there, message):
    for name, words in there.items():
        (tmp_path / name).write_text(words)
    before = content(tmp_path)
    with pytest.raises(LinscoreError, match=message):
        run_dynamics([str(runs)], text=text, out=str(tmp_path))
    assert content(tmp_path) == before


@pytest.mark.slow
def test_a_folder_in_the_place_of_a_report_is_left_alone(runs, text, tmp_path):
    options = {"text": text, "seq_len": SEQ_LEN, "tokens": 64, "device": "cpu", "out": str(tmp_path)}
    run_dynamics([str(runs / "checkpoint-9")], **options)
    (tmp_path / "10").mkdir()
    (tmp_path / "10" / "report.json").write_text("mine")
    with pytest.raises(LinscoreError, match=r"10 exists, but dynamics\.json does not list it"):
        run_dynamics([str(runs)], **options)
    assert (tmp_path / "10" / "report.json").read_text() == "mine"
