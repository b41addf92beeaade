import pytest
import torch

from linscore.errors import LinscoreError
from linscore.machine.devices import CARDS, kind_of, named


@pytest.mark.parametrize(
    ("what", "count", "card"),
    [
        ("H100", 1, "h100"),
        ("8xH100", 8, "h100"),
        ("8 × h200", 8, "h200"),
        ("2*RTX 4090", 2, "rtx4090"),
        ("3090", 1, "rtx3090"),
        ("A100-80GB", 1, "a10080"),
        ("4xL4", 4, "l4"),
    ],
)
def test_cards_are_known_by_how_people_write_them(what, count, card):
    found = named(what, torch.bfloat16)
    assert (found.count, found.kind) == (count, "cuda")
    assert found.name == f"{count} × {CARDS[card].name}"
    assert found.memory == pytest.approx(0.95e9 * CARDS[card].memory, abs=1)
    assert found.matrix == CARDS[card].matrix * 1e12
    assert kind_of(what) == torch.device("cuda")


def test_of_other_dtypes_no_rate_is_stated():
    assert named("H100", torch.float32).matrix is None


@pytest.mark.parametrize("what", ["", "0xH100", "H1000", "8x", "8xcpu", "A100"])
def test_others_are_refused_with_those_that_are_known(what):
    with pytest.raises(LinscoreError, match=r"`devices=.*H100"):
        named(what, torch.bfloat16)


def test_a_cpu_is_that_of_this_machine():
    assert kind_of("cpu") == torch.device("cpu")
