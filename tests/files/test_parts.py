"""What a killed process has left half written goes with the next one that writes there, and nothing else does."""

import os

import pytest

from linscore.files import parts
from linscore.files.parts import forget, new_part, parts_of, remove_leftovers
from linscore.files.whole import new_folder


def left_by_another(path):
    """What a process that has ended left of `path`."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        part = new_part(path)
        part.mkdir()
        (part / "file").write_text("half")
        os.write(writer, str(part).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        return path.parent / os.path.basename(pipe.read())


def test_the_next_writer_of_a_folder_removes_what_a_killed_one_left(tmp_path):
    left, other = left_by_another(tmp_path / "out"), left_by_another(tmp_path / "x-out")
    with new_folder(tmp_path / "out"):
        assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([other.name, "out"])


def test_what_a_live_process_writes_stays(tmp_path):
    mine = new_part(tmp_path / "out")
    mine.mkdir()
    parent = tmp_path / mine.name.replace(f"-{os.getpid()}-", f"-{os.getppid()}-")
    parent.mkdir()
    for names in (("out",), ()):
        remove_leftovers(tmp_path, *names)
    assert mine.exists()
    assert parent.exists()
    forget(mine)  # as if it had been written by a process of the same number, in a container that was started again
    remove_leftovers(tmp_path, "out")
    assert not mine.exists()


@pytest.mark.parametrize("name", [".part-0-out", ".part-1a2b3c4d-out", "machine"])
def test_what_does_not_say_whose_it_is_goes_only_where_nobody_else_is_at_work(tmp_path, monkeypatch, name):
    if name == "machine":
        with monkeypatch.context() as patch:
            patch.setattr(parts, "_MACHINE", "0" * 8)
            name = new_part(tmp_path / "out").name
    (tmp_path / "inner").mkdir()
    left = tmp_path / "inner" / name
    left.touch()
    remove_leftovers(tmp_path / "inner", "out")
    assert left.exists()
    remove_leftovers(tmp_path)
    assert not left.exists()


def test_parts_are_found_by_what_they_are_to_become(tmp_path):
    wanted, other = new_part(tmp_path / "a.json"), new_part(tmp_path / "b-a.json")
    for part in (wanted, other):
        part.touch()
    assert parts_of(tmp_path / "a.json") == [wanted]
