"""The sweep over families says what is right, what is refused, and what is wrong; here some whose ways are rare."""

import os
import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.studies import sweep

pytestmark = pytest.mark.usefixtures("one_thread")
RIGHT = {"score": "right", "stream": "right", "drop": "right", "left": "right", "right": "right"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "name"),
    [("olmo_hybrid", "OlmoHybridForCausalLM"), ("roberta", "RobertaForCausalLM"), ("git", "GitForCausalLM")],
)
def test_families_with_ways_of_their_own_are_right(model_type: str, name: str) -> None:
    assert sweep.examine(model_type, name) == RIGHT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "name", "reason"),
    [
        ("dory", "DoryForCausalLM", "runs block 0 of model.layers more than once"),
        ("reformer", "ReformerModelWithLMHead", "two states of one shape"),
    ],
)
def test_streams_that_are_not_one_are_refused_with_the_reason(model_type: str, name: str, reason: str) -> None:
    answer = sweep.examine(model_type, name)["score"]
    assert re.match(f"refused: .*{reason}", answer)


def test_a_score_that_is_off_is_called_wrong() -> None:
    x = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = x + x.square()
    figures = SimpleNamespace(linearity=sweep.linearity(x, y), linearity_no_residual=sweep.linearity(x, y - x))
    report = SimpleNamespace(blocks=[figures], tokens=40)
    assert sweep.compare(report, [(x, y)]) == "right"
    figures.linearity_no_residual += 1e-3
    assert sweep.compare(report, [(x, y)]) == "WRONG: off by 1.0e-03"
    report.tokens = 39
    assert sweep.compare(report, [(x, y)]).startswith("WRONG: 1 blocks, 39 tokens")


def test_a_crash_and_a_process_that_ends_are_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_model: nn.Module, _path: str) -> str:
        raise KeyError("x")

    monkeypatch.setattr(sweep.linscore, "find_decoder", lambda _model: SimpleNamespace(path=""))
    assert sweep.answer_of(crash, nn.Identity()) == "CRASH of the oracle: KeyError: 'x'"
    monkeypatch.setattr(sweep, "examine", lambda *_: os._exit(3))
    assert sweep.in_a_process("a", "b")["score"].startswith("CRASH: process ended by")
