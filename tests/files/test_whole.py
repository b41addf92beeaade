"""Files and folders are whole or not there: with two writers, an error, Ctrl-C and a kill at every moment."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from linscore.errors import LinscoreError
from linscore.files.parts import remove_leftovers
from linscore.files.whole import new_folder, prepare_folder, whole_file, whole_files

KILLED = """
import os, signal, sys
from pathlib import Path
from linscore.files.whole import new_folder, whole_files
place = Path(sys.argv[1])
with whole_files(place / "a", place / "b") as (a, b):
    a.write_text("new")
    b.write_text("new")
    with new_folder(place / "folder") as folder:
        (folder / "c").write_text("new")
        os.kill(os.getpid(), signal.SIGKILL)
"""


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as new:
        new.write_text("new")
        assert path.read_text() == "old"
        assert new.suffix == ".txt"  # by which some libraries choose a format
    assert content(tmp_path) == {"a.txt": "new"}


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt(), SystemExit(143)])
def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path, error):
    (tmp_path / "a").write_text("old")

    def files():
        with whole_files(tmp_path / "a", tmp_path / "b") as (a, _):
            a.write_text("new")
            raise error

    def folder():
        with new_folder(tmp_path / "one" / "two") as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "file").write_text("new")
            raise error

    for write in (files, folder):
        with pytest.raises(type(error)):
            write()
    assert content(tmp_path) == {"a": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_disk_that_fails_at_the_end_leaves_what_was_there(tmp_path, monkeypatch):
    """A full disk may say so only when the data has to reach it."""

    def fail(_descriptor):
        raise OSError("No space left on device")

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"), whole_file(tmp_path / "a") as new:
        new.write_text("new")
    with pytest.raises(OSError, match="No space"), new_folder(tmp_path / "folder") as folder:
        (folder / "file").write_text("new")
    assert content(tmp_path) == {"a": "old"}
    assert len(list(tmp_path.iterdir())) == 1


def test_data_reach_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    done = []

    def watch(name, describe):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args: (done.append(describe(*args)), original(*args))[1])

    def synced(descriptor):
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.rpartition("-")[2]

    watch("fsync", synced)
    watch("replace", lambda _part, path: f"replace {path.name}")
    watch("rename", lambda _part, path: f"rename {Path(path).name}")
    with whole_files(tmp_path / "a", tmp_path / "b") as parts:
        for part in parts:
            part.write_text("new")
    assert done == ["a", "b", "replace a", "replace b", tmp_path.name]
    done.clear()
    with new_folder(tmp_path / "folder") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("new")
    assert done == ["folder", "file", "sub", "rename folder", tmp_path.name]


def test_a_killed_writer_leaves_what_was_there_and_what_it_left_can_be_removed(tmp_path):
    (tmp_path / "a").write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = sorted(path.name for path in tmp_path.iterdir())
    assert [name for name in left if not name.startswith(".part-")] == ["a"]
    assert len(left) == 4
    assert (tmp_path / "a").read_text() == "old"
    remove_leftovers(tmp_path)
    assert content(tmp_path) == {"a": "old"}
    assert len(list(tmp_path.iterdir())) == 1


def write_often(folder, word, gate, results):
    gate.wait()
    try:
        for _ in range(30):
            with whole_files(folder / "a", folder / "b") as parts:
                for part in parts:
                    part.write_text(word * 1000)
    except BaseException as error:
        results.put(repr(error))
    results.put(None)


@pytest.mark.slow
def test_of_two_writers_at_once_both_succeed_and_one_result_stays(tmp_path):
    context = multiprocessing.get_context("fork")
    gate, results = context.Barrier(2), context.Queue()
    writers = [context.Process(target=write_often, args=(tmp_path, word, gate, results)) for word in "xy"]
    for writer in writers:
        writer.start()
    assert [results.get(timeout=60) for _ in writers] == [None, None]
    for writer in writers:
        writer.join()
    found = content(tmp_path)
    assert found.keys() == {"a", "b"}
    assert found["a"] == found["b"] in ("x" * 1000, "y" * 1000)


def test_files_of_one_result_take_their_names_together(tmp_path, monkeypatch):
    """A second process that comes between two names waits: what it writes is not mixed with what is there."""
    context = multiprocessing.get_context("fork")
    gate, results, replace = context.Barrier(1), context.Queue(), os.replace
    other = context.Process(target=write_often, args=(tmp_path, "y", gate, results))

    def slow(part, path):
        replace(part, path)
        if path.name == "a":
            monkeypatch.setattr(os, "replace", replace)
            other.start()
            other.join(timeout=0.5)
            assert (path.read_text(), (tmp_path / "b").exists()) == ("x", False)

    monkeypatch.setattr(os, "replace", slow)
    with whole_files(tmp_path / "a", tmp_path / "b") as parts:
        for part in parts:
            part.write_text("x")
    assert results.get(timeout=60) is None
    other.join()
    assert content(tmp_path) == {"a": "y" * 1000, "b": "y" * 1000}


def test_ctrl_c_between_two_names_leaves_no_mixture(tmp_path, monkeypatch):
    replace = os.replace

    def interrupted(part, path):
        replace(part, path)
        monkeypatch.setattr(os, "replace", replace)
        raise KeyboardInterrupt

    for name in "ab":
        (tmp_path / name).write_text("old")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), whole_files(tmp_path / "a", tmp_path / "b") as parts:
        [part.write_text("new") for part in parts]
    assert content(tmp_path) == {"a": "new", "b": "new"}


def test_of_two_new_folders_the_later_is_refused(tmp_path):
    late = new_folder(tmp_path / "out")
    (late.__enter__() / "file").write_text("late")
    with new_folder(tmp_path / "out") as early:
        (early / "file").write_text("early")
    with pytest.raises(LinscoreError, match="out exists"):
        late.__exit__(None, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert content(tmp_path / "out") == {"file": "early"}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_are_as_readable_as_any_other(tmp_path, mask):
    """Safetensors come out closed to other users, whatever the umask is."""
    before = os.umask(mask)
    try:
        with whole_file(tmp_path / "a") as new:
            new.unlink()
            new.touch(0o600)
        with new_folder(tmp_path / "folder") as folder:
            (folder / "sub").mkdir()
            for file in (folder / "b", folder / "sub" / "c"):
                file.touch(0o600)
    finally:
        os.umask(before)
    for name in ("a", "folder/b", "folder/sub/c"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("there", ["file", "folder", "link to nowhere"])
def test_a_new_folder_takes_no_place_that_is_taken(tmp_path, there):
    out = tmp_path / "out"
    if there == "file":
        out.write_text("mine")
    elif there == "folder":
        out.mkdir()
    else:
        out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(LinscoreError, match="out exists: give another `out`"), new_folder(out):
        pytest.fail("entered")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_place_that_cannot_be_written_to_is_one_line_before_any_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LinscoreError, match=r"cannot write to .*file"), new_folder(tmp_path / "file" / "out"):
        pytest.fail("entered")
    with pytest.raises(LinscoreError, match=r"cannot write to .*out"):
        prepare_folder(tmp_path / "file" / "out")
