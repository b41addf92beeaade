"""Report and moments are one result on the disk: with a full disk, a kill between their names, and damage."""

import json
import os
from dataclasses import replace

import pytest
import torch
from tiny_models import tiny

import linscore
from linscore import Report, load_moments, rank


def test_a_failed_save_leaves_the_older_result_whole(report, tmp_path, monkeypatch):
    report.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_args, **_kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("linscore.statistics.moments_file.save_file", fail)
    with pytest.raises(OSError, match="No space"):
        report.save(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("file", ["report.json", "moments.safetensors"])
def test_an_older_result_stays_whichever_file_cannot_be_written(report, tmp_path, monkeypatch, file):
    """Neither is replaced before both have reached the disk; the new figures are kept beside them."""
    report.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    sync = os.fsync

    def full(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(file):
            raise OSError("No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"No space.*kept in .*report-{report.run}\.json, without moments"):
        replace(report, model="another").save(tmp_path)
    kept = tmp_path / f"report-{report.run}.json"
    assert Report.load(kept) == replace(report, model="another")
    kept.unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_moments_of_another_run_beside_a_report_are_noticed(report, tmp_path):
    """As a process that was killed between their two names would leave them."""
    report.save(tmp_path)
    replace(report, model="another").save(tmp_path / "other")
    (tmp_path / "other" / "moments.safetensors").replace(tmp_path / "moments.safetensors")
    with pytest.raises(linscore.LinscoreError, match=r"moments\.safetensors is of another run than report\.json"):
        Report.load(tmp_path)


def test_moments_of_the_same_model_and_text_are_noticed_too(report, tmp_path):
    """Two runs that differ in what they collect agree in all that names them."""
    report.save(tmp_path)
    before = (tmp_path / "report.json").read_text()
    replace(report, run="0123456789abcdef").save(tmp_path)
    (tmp_path / "report.json").write_text(before)
    with pytest.raises(linscore.LinscoreError, match=r"is of another run than report\.json"):
        Report.load(tmp_path)


def test_a_result_whose_writer_was_killed_between_its_two_names_is_read(report, tmp_path):
    """With an older result under the names, and with none."""
    for older in (replace(report, model="older"), None):
        folder = tmp_path / str(older is None)
        if older is not None:
            older.save(folder)
        killed = os.fork()
        if not killed:
            os.replace = lambda part, path: (os.rename(part, path), os._exit(0))
            report.save(folder)
        os.waitpid(killed, 0)
        assert len(list(folder.glob(".part-*-report.json"))) == 1
        assert (folder / "report.json").exists() == (older is not None)
        assert Report.load(folder) == report


def test_moments_that_are_not_what_was_written_are_refused(report, tmp_path):
    """One bit of one number; other moments of the file are read as before."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    _, path = report.save(tmp_path)
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    tensors["block.0.light.0.second"].view(torch.int64)[0, 0] ^= 1
    save_file(tensors, path, metadata)
    with pytest.raises(linscore.LinscoreError, match=r"damaged .*block\.0 is not what was written"):
        load_moments(path)
    assert load_moments(path, ["block.1"])[0].keys() == {"block.1"}


def test_figures_are_kept_where_there_is_no_room_for_the_moments(report, tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("linscore.statistics.moments_file.save_file", fail)
    kept = tmp_path / "report.json"
    with pytest.raises(linscore.LinscoreError, match=f"os error 28.*the figures are kept in {kept}, without moments"):
        report.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert Report.load(tmp_path) == report


def test_a_figure_that_is_not_finite_does_not_cost_the_run(monkeypatch, tmp_path):
    from linscore.scoring import score as scoring

    figures = scoring.block_metrics

    def spoilt(*args, **options):
        return replace(figures(*args, **options), cosine=float("nan"), procrustes=float("inf"))

    monkeypatch.setattr(scoring, "block_metrics", spoilt)
    ids = torch.randint(3, 60, (8, 32), generator=torch.Generator().manual_seed(0))
    found = linscore.score(tiny("llama"), [ids], name="tiny")
    [doubt] = [warning for warning in found.warnings if warning.kind == "nonfinite_figures"]
    assert doubt.blocks == [block.index for block in found.blocks]
    found.save(tmp_path)
    told = json.loads((tmp_path / "report.json").read_text())["blocks"]
    assert [(block["cosine"], block["procrustes"]) for block in told] == [(None, None)] * found.depth
    assert Report.load(tmp_path) == found
    assert rank(found, "linearity")[0].cosine is None
