"""Shards of a dataset that break off, against the rows that each would have given."""

import itertools

import datasets
import pytest

from linscore.errors import LinscoreError
from linscore.text.hub import read_dataset


def test_a_dataset_that_breaks_off_is_refused_in_one_line(monkeypatch):
    def rows():
        yield {"text": "x"}
        raise TimeoutError

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.IterableDataset.from_generator(rows))
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    found = read_dataset("owner/name")
    assert next(found) == "x"
    with pytest.raises(LinscoreError, match=r"^dataset owner/name cannot be loaded \(TimeoutError\): check"):
        next(found)
    assert waited == [1, 4, 16]


def test_a_shard_that_breaks_off_is_read_again_behind_its_last_row(monkeypatch):
    begun, fails = [], iter([True, True, False, True, False, False])

    def rows(shard):
        begun.extend(shard)
        yield from ({"text": f"{shard[0]} {row}"} for row in range(3))
        if next(fails):
            raise ConnectionError("reset by peer")
        yield {"text": f"{shard[0]} last"}

    shards = datasets.IterableDataset.from_generator(rows, gen_kwargs={"shard": [0, 1, 2]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: shards)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    found = list(read_dataset("owner/name"))
    assert found == [f"{shard} {row}" for shard in range(3) for row in (0, 1, 2, "last")]
    assert begun == [0, 0, 0, 1, 1, 2]  # none before the one that broke off


def shards_of(monkeypatch, broken):
    """A dataset of three shards, some of which break off before their last row."""

    def rows(shard):
        yield {"text": f"{shard[0]} first"}
        if shard[0] in broken:
            raise ConnectionError("reset by peer")
        yield {"text": f"{shard[0]} last"}

    shards = datasets.IterableDataset.from_generator(rows, gen_kwargs={"shard": [0, 1, 2]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: shards)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)


def test_a_shard_that_stays_broken_is_left_out_where_that_is_wanted(monkeypatch):
    said = []
    shards_of(monkeypatch, {0, 2})
    found = list(read_dataset("owner/name", said.append))
    assert found == ["0 first", "1 first", "1 last", "2 first"]
    assert said == [
        f"dataset owner/name: the rest of shard {number} of 3 is left out (reset by peer)" for number in (1, 3)
    ]


def test_two_broken_shards_in_a_row_are_a_network_that_is_gone(monkeypatch):
    said = []
    shards_of(monkeypatch, {1, 2})
    found = read_dataset("owner/name", said.append)
    assert list(itertools.islice(found, 4)) == ["0 first", "0 last", "1 first", "2 first"]
    with pytest.raises(LinscoreError, match=r"owner/name cannot be loaded \(reset by peer\)"):
        next(found)
    assert len(said) == 1


def test_a_shard_that_is_damaged_is_not_waited_for(monkeypatch, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "x"}\n{"text"')
    monkeypatch.setattr("time.sleep", pytest.fail)
    with pytest.raises(LinscoreError, match=r"^dataset .* cannot be loaded"):
        list(read_dataset(str(tmp_path)))
