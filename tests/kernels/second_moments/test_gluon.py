"""The Gluon kernels, run by hand: what they compute, and when their word is taken."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton.experimental.gluon")

from gluon_by_hand import Kernel
from linscore_kernels.errors import LinscoreError
from linscore_kernels.second_moments import (
    gluon_blackwell_kernel,
    gluon_check,
    gluon_kernel,
    gluon_launch,
    gram_kernel,
)
from linscore_kernels.tuning.parameters import Launch, launch_for
from linscore_kernels.tuning.tune import candidates

CPU = torch.device("cpu")
LAUNCH = Launch(128, 256, 64, warps=8, stages=3, descriptors=True, kernel="gluon")


@pytest.fixture(params=[90, 100])
def by_hand(monkeypatch, request):
    """The kernel of an architecture in place of Triton's, three programs at once."""
    module = {90: gluon_kernel, 100: gluon_blackwell_kernel}[request.param]
    name = gluon_launch.kernel_for(request.param).fn.__name__
    kernel = Kernel(*(Path(one.__file__) for one in {gluon_kernel: 0, module: 0}), name=name)
    monkeypatch.setattr(module, name, kernel)
    monkeypatch.setattr(gram_kernel, "multiprocessors", lambda _: 3)
    monkeypatch.setattr(gluon_launch, "capability", lambda _: request.param)
    monkeypatch.setattr(gluon_check, "capability", lambda _: request.param)
    return kernel


def operands_and_products(tokens: int, d: int, e: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Small integers, and their exact products."""
    operands = torch.randint(-4, 5, (2, tokens, width), generator=torch.Generator().manual_seed(0)).bfloat16()
    x, delta = operands.double()
    return operands, torch.cat([x[:, :d].T @ x[:, :d], x[:, :d].T @ delta[:, :e]], 1)


@pytest.mark.slow
@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("splits", [1, 2])
def test_it_adds_the_products_of_all_tiles_and_of_all_tokens(splits):
    """Seven tiles for three programs, and five blocks of tokens, which two splits share unequally."""
    operands, true = operands_and_products(320, 300, 200, 304)
    scale = torch.exp2(torch.randint(-30, 31, (500,), generator=torch.Generator().manual_seed(1)).float())
    whole = torch.ones(300, 520, dtype=torch.float64)
    gram_kernel.launch_gram(operands, whole[:, :500], LAUNCH, splits, scale=scale, sign=-1)
    expected = 1 - true / (scale[:300, None].double() * scale.double())
    assert torch.equal(whole[:, :500].triu(), expected.triu())
    assert (whole[:, 500:] == 1).all()


@pytest.mark.parametrize(("parts", "flush"), [(4, 0), (2, 1024)])
@pytest.mark.parametrize("kernel", ["gluon", "flattened"])
def test_split_operands_and_flushed_sums_are_refused(kernel, parts, flush):
    launch = replace(LAUNCH, kernel=kernel, flush=flush)
    with pytest.raises(LinscoreError, match=f"{kernel} kernel takes single operands, in one sum"):
        gram_kernel.launch_gram(torch.zeros(parts, 64, 16), torch.zeros(16, 32), launch)


def test_other_kernels_are_taken_at_their_word():
    plain = launch_for(90, 4096, "single")
    assert gluon_check.trusted(plain, torch.zeros(2, 64, 16)) is plain


def test_tuning_tries_it_on_the_architecture_that_it_is_for():
    found = {
        a: [launch for launch in candidates(a, "single").values() if launch.kernel == "gluon"]
        for a in (80, 90, 100, 120)
    }
    assert [len(found[a]) for a in found] == [0, 2, 2, 0]
    assert {launch.stages for launch in found[90]} == {4}


@pytest.fixture
def on_hopper(monkeypatch):
    """As if tensors were on a GPU for which there is a kernel, and with a small trial."""
    monkeypatch.setattr(gluon_check, "capability", lambda _: 90)
    monkeypatch.setattr(gluon_check, "FEATURES", 40)
    monkeypatch.setattr(gluon_check, "TOKENS", 256)
    gluon_check.fault_of.cache_clear()
    yield
    gluon_check.fault_of.cache_clear()


OPERANDS = torch.zeros(2, 64, 40, dtype=torch.bfloat16)


@pytest.mark.slow
@pytest.mark.usefixtures("on_hopper", "by_hand")
@pytest.mark.filterwarnings("error::UserWarning")
def test_it_is_used_where_it_gives_what_the_plain_kernel_gives():
    assert gluon_check.trusted(LAUNCH, OPERANDS) is LAUNCH


@pytest.mark.slow
@pytest.mark.usefixtures("on_hopper")
def test_it_is_not_used_where_one_sum_differs(by_hand, monkeypatch):
    class Spoilt:
        def __getitem__(self, grid):
            def launch(left, right, tiles, out, *rest, **constants):
                by_hand[grid](left, right, tiles, out, *rest, **constants)
                out[..., 0, 0] += 1

            return launch

    monkeypatch.setattr(gluon_launch, "kernel_for", lambda _: Spoilt())
    with pytest.warns(UserWarning, match="differ from the plain kernel's"):
        assert gluon_check.trusted(LAUNCH, OPERANDS) == replace(LAUNCH, kernel="tile")


@pytest.mark.usefixtures("on_hopper")
def test_it_is_not_used_where_this_triton_has_another_gluon(monkeypatch):
    monkeypatch.setitem(sys.modules, "linscore_kernels.second_moments.gluon_launch", None)
    with pytest.warns(UserWarning, match="Error: .*gluon_launch"):
        assert gluon_check.trusted(LAUNCH, OPERANDS).kernel == "tile"


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # imported already, as it is not there
def test_as_a_program_it_says_what_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", json.dumps(asdict(LAUNCH)), "cpu"])
    runpy.run_module(gluon_check.__name__, run_name="__main__")
    assert capsys.readouterr().out == "there is none for GPUs but those of compute capability 9 and 10\n"


def test_what_a_process_of_its_own_says_is_taken_and_so_is_how_it_ends(monkeypatch, tmp_path):
    python = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    for commands, seconds, fault in (
        ('echo "$2 $4"', 5, f"{gluon_check.__name__} cpu"),
        ("exec sleep 5", 0.1, "it did not end within 0 s"),
        ("echo Error: spoilt >&2; exit 1", 6, "Error: spoilt (tried apart)"),
    ):
        python.write_text(f"#!/bin/sh\n{commands}\n")
        python.chmod(0o755)
        assert gluon_check.fault_apart(LAUNCH, CPU, seconds) == fault


def test_it_is_not_used_on_other_devices():
    with pytest.warns(UserWarning, match="those of compute capability 9 and 10"):
        assert gluon_check.trusted(LAUNCH, OPERANDS).kernel == "tile"
