"""What `linscore score` collects for spans and fusions."""

import pytest
from asked import asked

from linscore import LinscoreError
from linscore.jobs.score import run_score

run_score = asked(run_score)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_the_command_line_collects_what_it_is_asked_for(tmp_path):
    report, _ = run_score(
        tokens=1500,
        seq_len=100,
        device="cpu",
        blocks="0-2,4",
        collect_for="spans, fuse",
        span_lengths="2-3",
        out=str(tmp_path),
    )
    assert [str(one.span) for one in report.spans] == ["0-1", "0-2", "1-2"]
    fused = {
        name.split(".")[1] for name in report.moments if name.startswith("fuse.") and name.endswith(".intermediate")
    }
    assert fused == {"1", "2", "4", "1-2"}
    assert not any(name.endswith(".output") for name in report.moments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"collect_for": "spans,sapns"},
            "`collect_for=sapns` is unknown: give a comma list out of spans, fuse, fuse-output",
        ),
        ({"collect_for": "spans", "span_lengths": "1-3"}, "`span_lengths` is '1-3'"),
        ({"collect_for": "spans", "span_lengths": "two"}, "`span_lengths` is 'two'"),
        ({"collect_for": "spans", "blocks": "1,3-4", "span_lengths": "3"}, "no spans of 3 blocks in blocks 1, 3-4"),
        ({"collect_for": "fuse", "blocks": "0"}, "block 0 has no MLP before it"),
    ],
)
def test_what_cannot_be_collected_is_one_line(options, message, tmp_path):
    with pytest.raises(LinscoreError, match=message):
        run_score(tokens=500, seq_len=100, device="cpu", out=str(tmp_path / "out"), **options)
