from types import SimpleNamespace

import pytest

from linscore.machine import allocator

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT = {M_MMAP_THRESHOLD: 2**30, M_TRIM_THRESHOLD: 2**31 - 1}


@pytest.fixture
def libc(monkeypatch):
    """What the C library was told."""
    told = SimpleNamespace(thresholds={}, trimmed=[])
    told.mallopt = lambda what, value: told.thresholds.update({what: value})
    told.malloc_trim = lambda _pad: told.trimmed.append(dict(told.thresholds))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _name: told)
    monkeypatch.setattr(allocator, "_keeps", False)
    return told


def test_a_process_that_keeps_nothing_is_left_alone(libc):
    with allocator.giving_back():
        pass
    assert not libc.thresholds
    assert not libc.trimmed


def test_what_is_kept_goes_back_and_is_kept_again_afterwards(libc):
    allocator.keep_freed_memory()
    assert libc.thresholds == KEPT
    with allocator.giving_back():
        large = {M_MMAP_THRESHOLD: 16 << 20, M_TRIM_THRESHOLD: 16 << 20}
        assert libc.thresholds == large
        assert libc.trimmed == [large]
    assert libc.thresholds == KEPT


def test_a_c_library_without_mallopt_is_none_that_keeps(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _name: SimpleNamespace())
    allocator.keep_freed_memory()
    with allocator.giving_back():
        pass
