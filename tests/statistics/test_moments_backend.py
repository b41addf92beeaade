"""Which backend computes the updates of moments, and what moving them to another device does to it."""

import pytest
from linscore_kernels import has_triton

from linscore import LinscoreError, Moments, load_moments, save_moments

pytestmark = pytest.mark.skipif(not has_triton(), reason="no triton")


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch):
    monkeypatch.delenv("LINSCORE_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_a_backend_that_was_named_stays(monkeypatch):
    assert Moments(4, backend="eager").to("cuda").backend == "eager"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert Moments(4, backend="triton").to("cpu").backend == "triton"


def test_by_default_it_follows_the_device():
    moments = Moments(4)
    assert moments.backend == "eager"
    assert moments.to("cuda").backend == "triton"
    assert moments.to("cpu").backend == "eager"


def test_one_that_cannot_run_there_is_refused_and_nothing_moves():
    moments = Moments(4, backend="triton", device="cuda")
    with pytest.raises(LinscoreError, match="runs on CUDA tensors, these are on cpu: choose eager"):
        moments.to("cpu")
    assert moments.device.type == "cuda"
    assert moments.backend == "triton"


def test_a_file_is_read_whatever_computes_and_names_no_backend(monkeypatch, tmp_path):
    save_moments(tmp_path / "moments.safetensors", {"block.0": Moments(4, backend="eager")})
    monkeypatch.setenv("LINSCORE_BACKEND", "triton")  # which cannot run on the CPU
    loaded, _ = load_moments(tmp_path / "moments.safetensors")
    assert loaded["block.0"].to("cuda").backend == "triton"
