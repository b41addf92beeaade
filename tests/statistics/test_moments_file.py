"""Moments files of others: what the head says is held against the tensors before anything is made of it."""

import json
import os
import resource
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import linscore
from linscore import LinscoreError
from linscore.statistics.moments_file import check_moments, load_moments

MIB = 2**10  # of ru_maxrss, which counts in KiB
WIDE = 15_000  # a cell of this width takes 3.4 GiB


@pytest.fixture
def path(tmp_path):
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    moments = linscore.Moments(4, folds=2)
    moments.update(x, 2 * x + 1, fold=1)
    linscore.save_moments(tmp_path / "m.safetensors", {"block.0": moments, "none": linscore.Moments(3)})
    return tmp_path / "m.safetensors"


def rewrite(path, head=lambda _: None, tensors=lambda _: None):
    """The same file with another head, or other tensors."""
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["linscore"])
    stored = load_file(path)
    head(content["moments"]["block.0"])
    tensors(stored)
    save_file(stored, path, {"linscore": json.dumps(content)})


def test_what_was_written_is_read_empty_moments_too(path):
    moments, _ = load_moments(path)
    assert moments["block.0"].rows(1) == 40
    assert (moments["none"].d, moments["none"].rows(0)) == (3, 0)
    assert moments["none"].pilot is None


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ({"d": WIDE, "width_delta": WIDE}, r"block\.0\.\S+ is F\d\d \[4.*, not F\d\d \[15000"),
        ({"d": 5}, "not F"),
        ({"width_delta": 3}, "not F"),
        ({"width_delta": 5}, "widths 4 and 5"),
        ({"d": 0, "width_delta": 0}, "widths 0 and 0"),
        ({"folds": 10**8}, "100,000,001 folds"),
        ({"folds": 1}, r"block\.0\.light\.1\.\w+ belongs to nothing"),
        ({"folds": 0}, "in 0 folds"),
        ({"precision": "slow"}, "precision"),
        ({"limits": None}, "but no limits"),
        ({"limits": [1.0, float("nan")]}, "limits are"),
        ({"limits": [True, 1]}, "limits are"),
        ({"limits": [10**400, 1]}, "too large"),
    ],
)
def test_a_head_that_the_tensors_do_not_bear_out_is_refused_at_once(path, head, says):
    rewrite(path, lambda content: content.update(head))
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LinscoreError, match=f"damaged or no moments file .*{says}"):
        load_moments(path)
    assert time.perf_counter() - begin < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * MIB


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (lambda t: t.pop("block.0.light.1.second"), r"block\.0\.light\.1 is not whole"),
        (lambda t: t.pop("block.0.pilot.scale_x"), r"block\.0\.pilot is not whole"),
        (lambda t: [t.pop(key) for key in list(t) if "pilot" in key], "has no pilot"),
        (lambda t: t.update({"block.1.light.0.n": torch.zeros(())}), "belongs to nothing"),
        (lambda t: t.update({"block.0.dark.0.n": torch.zeros(())}), "belongs to nothing"),
        (lambda t: t.update({"block.0.light.01.n": torch.zeros(())}), "belongs to nothing"),
        (lambda t: t.update({"n": torch.zeros(())}), "belongs to nothing"),
        (lambda t: t.update({"block.0.light.1.n": torch.tensor(40.0)}), r"is F32 \[\], not F64"),
    ],
)
def test_tensors_that_the_head_does_not_know_are_refused(path, tensors, says):
    rewrite(path, tensors=tensors)
    with pytest.raises(LinscoreError, match=says):
        check_moments(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("light.1.n", 1.5), ("light.1.n", -1.0), ("light.1.sum_x", float("inf")), ("pilot.scale_x", 0.0)],
)
def test_values_that_are_no_sums_are_refused(path, key, value):
    rewrite(path, tensors=lambda stored: stored[f"block.0.{key}"].fill_(value))
    with pytest.raises(LinscoreError, match=f"block.0.{key}"):
        load_moments(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "moments.safetensors")
    with pytest.raises(LinscoreError):
        load_moments(tmp_path / "moments.safetensors")


def test_no_figures_are_made_of_no_rows_however_wide():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LinscoreError, match="only 0 rows"):
        linscore.block_metrics(linscore.Moments(WIDE))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * MIB
