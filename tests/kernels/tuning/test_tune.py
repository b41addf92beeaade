"""How the launch table is tuned, with made-up times: what is chosen, what is refused, what is written."""

from __future__ import annotations

import json
import os
import shutil
from itertools import product
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from linscore_kernels.errors import LinscoreError
from linscore_kernels.tuning import cases as tune_cases
from linscore_kernels.tuning import parameters as launch_parameters
from linscore_kernels.tuning import tune
from linscore_kernels.tuning.cases import Product
from linscore_kernels.tuning.parameters import KERNELS, TABLE, Entry, Launch, launch_for, launch_table, torch_is_faster
from linscore_kernels.tuning.tune import GROUPS, TORCH, choose, describe, write_table

CPU = torch.device("cpu")
ONE, TWO = (Launch(64, 64, 32, warps, stages=2, descriptors=False) for warps in (4, 8))
LAUNCHES = {"one": ONE, "two": TWO}


def measured(monkeypatch, times, widths=(64,), tokens=100):
    """The result of tuning two candidates on the CPU by a clock that knows its answers."""
    monkeypatch.setattr(tune, "candidates", lambda _architecture, _path: LAUNCHES)

    def timer(calls, _device):
        for call in calls.values():
            call()
        return {name: times[name] for name in calls}

    return tune.tune(CPU, widths, tokens=tokens, timer=timer)


@pytest.fixture
def without_products(monkeypatch):
    """Candidates are not run, for tests of what is made of their times."""
    monkeypatch.setattr(tune, "product_of", lambda _case: Product(run=lambda _: None, error=lambda _: 0.0))


@pytest.mark.usefixtures("without_products")
def test_the_fastest_candidate_is_chosen_and_torch_where_it_is_faster(monkeypatch):
    result = measured(monkeypatch, {"one": 2.0, "two": 1.0, TORCH: 1.5})
    assert {path: entry["launch"]["warps"] for path, entry in result["paths"].items()} == dict.fromkeys(
        ("single", "split", "residual"), 8
    )
    assert all(entry["torch_widths"] == () for entry in result["paths"].values())
    result = measured(monkeypatch, {"one": 2.0, "two": 1.0, TORCH: 0.5})
    assert all(entry["torch_widths"] == (64,) for entry in result["paths"].values())


def test_wide_widths_choose_by_their_geometric_mean():
    seconds = {
        512: {"one": 9.0, "two": 1.0, TORCH: 2.0},
        1024: {"one": 1.0, "two": 3.0, TORCH: 2.0},
        4096: {"one": 40.0, "two": 20.0, TORCH: 35.0},
        8192: {"one": 80.0, "two": 90.0, TORCH: 80.0},
    }
    entry = choose(LAUNCHES, seconds, Entry(TWO))
    assert entry.launch == ONE  # 14.7 against 17.5, while the sums are 121 and 113
    assert entry.torch_widths == (512, 4096)


def test_a_candidate_must_have_run_at_every_wide_width():
    seconds = {1024: {"one": 1.0, "two": 0.1, TORCH: 2.0}, 2048: {"one": 1.0}, 4096: {TORCH: 1.0}, 8192: {}}
    assert choose(LAUNCHES, seconds, Entry(TWO)).launch == ONE
    nothing = choose(LAUNCHES, {1024: {TORCH: 2.0}}, Entry(TWO))
    assert nothing.launch == TWO
    assert nothing.torch_widths == (1024,)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["single", "split", "residual"])
def test_a_wrong_candidate_and_one_that_fails_are_skipped_and_named(monkeypatch, path):
    def faulty(right):
        def launch_one(*arguments, **options):
            launch = options.get("launch") or arguments[2]
            if launch.warps == 8:
                raise RuntimeError("out of registers")
            result = right(*arguments, **options)
            spoilt = arguments[1] if result is None else result
            spoilt[..., -1] += 1  # one column, or one token, of all
            return result

        return launch_one

    name = "launch_residual_norms" if path == "residual" else "launch_gram"
    monkeypatch.setattr(tune_cases, name, faulty(getattr(tune_cases, name)))
    result = measured(monkeypatch, {"one": 1.0, "two": 1.0, TORCH: 5.0}, tokens=64)
    skipped = result["paths"][path]["skipped"][64]
    assert skipped["two"] == "RuntimeError: out of registers"
    assert skipped["one"].startswith("off by")
    assert result["paths"][path]["seconds"][64] == {TORCH: 5.0}
    others = [entry for other, entry in result["paths"].items() if (other == "residual") != (path == "residual")]
    assert not any(entry["skipped"][64] for entry in others)


@pytest.mark.parametrize("path", ["single", "split", "residual"])
def test_candidates_hold_what_the_table_has_and_each_once(path):
    for architecture in (80, 90, 120):
        found = tune.candidates(architecture, path)
        assert launch_for(architecture, 4096, path) in found.values()
        assert len(found) == len(set(found.values())) >= 4
        assert all(launch.descriptors == (architecture >= 90) for launch in found.values())
        assert describe(ONE) not in found
        kernels = {(launch.kernel, launch.group) for launch in found.values()}
        there = [kernel for kernel in KERNELS if kernel != "gluon" or architecture == 90]
        assert kernels == (set(product(there, GROUPS)) if path == "single" else {("tile", 8)})


@pytest.fixture
def table_file(monkeypatch, tmp_path):
    """A copy of the table, in use until the test ends."""
    copy = tmp_path / TABLE.name
    shutil.copy(TABLE, copy)
    monkeypatch.setattr(launch_parameters, "TABLE", copy)
    launch_table.cache_clear()
    yield copy
    launch_table.cache_clear()


@pytest.mark.usefixtures("without_products")
def test_only_the_entry_of_the_measured_architecture_is_rewritten(monkeypatch, table_file):
    before = json.loads(table_file.read_text())
    result = measured(monkeypatch, {"one": 2.0, "two": 1.0, TORCH: 0.5})
    write_table(result | {"capability": 89}, table_file)
    after = json.loads(table_file.read_text())
    assert {row: after[row] for row in before} == before
    assert set(after) - set(before) == {"89"}
    assert launch_for(89, 4096, "split") == TWO
    assert torch_is_faster(89, 64, "single")
    assert not torch_is_faster(89, 4096, "single")
    assert launch_for(90, 4096, "split").warps == before["90"]["split"]["launch"]["warps"]
    assert [file.name for file in table_file.parent.iterdir()] == [TABLE.name]


def test_the_file_is_laid_out_as_it_is_shipped():
    assert tune._layout(json.loads(TABLE.read_text())) == TABLE.read_text()


@pytest.mark.usefixtures("without_products")
def test_a_table_that_cannot_be_written_says_so(monkeypatch, table_file):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.replace", refuse)
    result = measured(monkeypatch, {"one": 2.0, "two": 1.0, TORCH: 0.5})
    with pytest.raises(OSError, match=r"cannot be replaced \(Permission denied\)"):
        write_table(result, table_file)
    assert table_file.read_text() == TABLE.read_text()
    assert [file.name for file in table_file.parent.iterdir()] == [TABLE.name]


@pytest.mark.slow
def test_an_interrupted_or_second_tuning_leaves_the_table_whole(monkeypatch, table_file):
    """Each writes beside the table under a name of its own, which is gone whatever ends it."""
    result, replace, names = measured(monkeypatch, {"one": 2.0, "two": 1.0, TORCH: 0.5}), os.replace, []

    def interrupted(source, _target):
        names.append(source.name)
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            write_table(result, table_file)
    monkeypatch.setattr("os.replace", replace)
    assert len(set(names)) == 2
    assert table_file.read_text() == TABLE.read_text()
    assert [file.name for file in table_file.parent.iterdir()] == [TABLE.name]


def test_tuning_without_a_gpu_is_refused():
    with pytest.raises(LinscoreError, match="needs a CUDA device"):
        tune.tune(CPU)


@pytest.mark.usefixtures("without_products")
def test_each_width_is_handed_over_and_what_was_not_measured_stays(monkeypatch, table_file, tmp_path):
    monkeypatch.setattr(tune, "candidates", lambda *_: LAUNCHES)
    monkeypatch.setattr(tune, "nearest_entry", lambda *_: Entry(ONE, (32, 64)))
    seen, before = [], json.loads(table_file.read_text())

    def write(result):
        write_table(result | {"capability": 89}, tmp_path / "tuned.json")
        seen.append(json.loads((tmp_path / "tuned.json").read_text())["89"])

    times = {"one": 2.0, "two": 1.0, TORCH: 0.5}
    tune.tune(CPU, (64, 2048), ("split",), measured=write, timer=lambda calls, _: {name: times[name] for name in calls})
    assert [entry["split"]["torch_widths"] for entry in seen] == [[32, 64], [32, 64, 2048]]
    assert all(entry["split"]["launch"]["warps"] == 8 for entry in seen)
    assert all(
        entry["single"] == entry["residual"] == tune.asdict(Entry(ONE)) | {"torch_widths": [32, 64]} for entry in seen
    )
    assert json.loads(table_file.read_text()) == before


@pytest.mark.usefixtures("without_products")
def test_after_its_patience_the_first_width_has_torch_and_the_launch_in_use_and_no_other_begins(monkeypatch):
    monkeypatch.setattr(tune, "candidates", lambda *_: {**LAUNCHES, "three": ONE})
    clock = iter(range(1000))
    monkeypatch.setattr(tune, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    result = tune.tune(CPU, (64, 128), ("single",), patience=1.5, timer=lambda calls, _: dict.fromkeys(calls, 1.0))
    (times,), (skipped,) = (result["paths"]["single"][key].values() for key in ("seconds", "skipped"))
    assert sorted(times) == ["one", TORCH]
    assert skipped == dict.fromkeys(("two", "three"), "no time was left")


def test_progress_names_path_and_width(monkeypatch):
    monkeypatch.setattr(tune, "measure", lambda *_: ({}, {}))
    seen: list[str] = []
    tune.tune(CPU, (64, 4096), progress=seen.append, timer=lambda *_: {})
    assert seen[:3] == ["single, 64 features", "single, 4096 features", "split, 64 features"]
    assert len(seen) == 6
