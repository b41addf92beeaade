"""The judge's job: who is asked, in which order, and what is refused."""

import json

import pytest
from asked import asked
from click.testing import CliRunner

from linscore.cli import cli
from linscore.errors import LinscoreError
from linscore.evaluation.endpoint import Endpoint
from linscore.evaluation.judged import ITSELF
from linscore.jobs.judge import run_judge

run_judge = asked(run_judge)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.jsonl"
    lines = [{"text": f"def function_{name}(argument):\n    return argument + 1\n" * 3} for name in "ab"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_a_reference_decoder_judges_what_models_write(text):
    found = CliRunner().invoke(
        cli,
        [
            "judge",
            "embedded",
            "--text",
            text,
            "--reference",
            "embedded",
            "--new-tokens",
            "4",
            "--begin",
            "60",
            "--json",
        ],
    )
    result = json.loads(found.stdout)
    assert [one["model"] for one in result["judged"]] == [ITSELF, "embedded"]
    for one in result["judged"]:
        assert one["judged"] == len(one["texts"]) == 2
        assert one["grades"]["loss"]["stderr"] >= 0
        assert one["perplexity"] >= 1
    assert result["asked"]["seed"] == 0


def test_the_endpoint_is_asked_before_a_model_is_loaded(text, monkeypatch):
    monkeypatch.setenv("LINSCORE_JUDGE_KEY", "k")
    given = []
    grades = '{"grammar": 1, "creativity": 2, "consistency": 3, "plot": 4}'
    monkeypatch.setattr(Endpoint, "ask", lambda self, _: given.append(self._key) or grades)
    endpoint = {"endpoint": "http://localhost/v1", "judge": "gpt", "begin": 60}
    with pytest.raises(LinscoreError, match="none-there"):
        run_judge(["none-there"], text=text, **endpoint)
    assert given == ["k", "k"]
    [itself, embedded] = run_judge(["embedded"], text=text, new_tokens=2, **endpoint)
    assert itself.grades["mean"].mean == embedded.grades["mean"].mean == 2.5
    monkeypatch.setattr(Endpoint, "ask", lambda *_: "no")
    with pytest.raises(LinscoreError, match="grades none of the texts as it is asked to"):
        run_judge(["embedded"], text=text, **endpoint)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "give `endpoint` and `judge`, or `reference`"),
        ({"endpoint": "http://localhost", "judge": "x", "reference": "embedded"}, "who judges is not said"),
        ({"endpoint": "http://localhost"}, "`endpoint` and `judge` belong together"),
        ({"reference": "embedded", "judge": "x"}, "`endpoint` and `judge` belong together"),
        ({"reference": "embedded", "stories": 0}, "`stories` is 0"),
        ({"reference": "embedded", "temperature": -1.0}, "`temperature` is -1.0"),
    ],
)
def test_what_cannot_be_used_is_said_first(text, options, says):
    with pytest.raises(LinscoreError, match=says):
        run_judge(["embedded"], text=text, **options)
