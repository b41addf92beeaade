"""Which backend computes."""

import pytest
from linscore_kernels import LinscoreError, choose_backend


def test_the_backend_follows_the_device_the_argument_and_the_environment(monkeypatch):
    monkeypatch.delenv("LINSCORE_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert choose_backend("cpu") == "eager"
    assert choose_backend("cuda") == "triton"
    assert choose_backend("cuda", "eager") == "eager"
    monkeypatch.setenv("LINSCORE_BACKEND", "eager")
    assert choose_backend("cuda") == "eager"
    monkeypatch.setenv("LINSCORE_BACKEND", "triton")
    with pytest.raises(LinscoreError, match="CUDA tensors"):
        choose_backend("cpu")
    with pytest.raises(LinscoreError, match="choose auto"):
        choose_backend("cpu", "cudnn")
