"""A full disk is one line, whatever the library that writes says of it; what was there stays, and nothing else."""

import multiprocessing
import resource

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from linscore.errors import LinscoreError
from linscore.files.curve import append_line
from linscore.files.full_disk import room_for
from linscore.files.whole import new_folder, whole_file

LIMIT = 20_000  # bytes of a file
WRITERS = {
    "text": lambda path: path.write_text("x" * 5 * LIMIT),
    "safetensors": lambda path: save_file({"a": torch.zeros(LIMIT)}, path),
    "torch": lambda path: torch.save({"a": torch.zeros(LIMIT)}, path),
    "numpy": lambda path: np.zeros(LIMIT).tofile(path),
    "tokenizers": lambda path: Tokenizer(models.WordLevel({str(i): i for i in range(LIMIT)}, "0")).save(str(path)),
}


def writes(place, results):
    """What each writer says where no file may be larger than LIMIT, as `ulimit -f` has it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
    said = {}
    for name, write in WRITERS.items():
        for context, what in ((whole_file, "file"), (new_folder, "folder")):
            try:
                with context(place / what) as new:
                    write(new if what == "file" else new / "inner")
            except Exception as error:  # noqa: PERF203
                said[name, what] = (isinstance(error, LinscoreError), str(error))
    results.put(said)


def test_every_library_says_it_in_one_line(tmp_path):
    (tmp_path / "file").write_text("old")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=writes, args=(tmp_path, results))
    process.start()
    said = results.get(timeout=60)
    process.join()
    assert len(said) == 2 * len(WRITERS)
    for (name, what), (ours, message) in said.items():
        assert ours, (name, message)
        assert message.startswith(f"no room for {tmp_path / what} ("), name
        assert message.endswith("): free some space, or give another `out`"), name
        assert "\n" not in message
    assert {path.name for path in tmp_path.iterdir()} == {"file"}
    assert (tmp_path / "file").read_text() == "old"


def test_a_curve_that_has_no_room_says_so(tmp_path):
    (tmp_path / "curve.jsonl").symlink_to("/dev/full")
    with pytest.raises(LinscoreError, match=r"no room for .*curve\.jsonl"):
        append_line(tmp_path / "curve.jsonl", {"step": 1})


@pytest.mark.parametrize(
    "error", [OSError(13, "Permission denied"), ValueError("shapes differ"), LinscoreError("ours")]
)
def test_other_errors_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught, room_for(tmp_path):
        raise error
    assert caught.value is error
