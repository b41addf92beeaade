"""Checkpoints that are whole or not there: written beside their place, and moved into it at the end."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from linscore.errors import LinscoreError
from linscore.models.load import quiet
from linscore.surgery.record import RECORD, Record

__all__ = ["new_folder", "save_checkpoint"]

PUBLIC = 0o666  # of a file, before the umask, which the folder's own mode shows


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the name `path` once the context is left without an error.

    Entered before any work, it also finds out that the place cannot be written to.

    Raises:
        LinscoreError: when `path` exists, or nothing can be written there.
    """
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise LinscoreError(f"{path} exists: give --out a folder that is not there yet")
    place = next(parent for parent in path.absolute().parents if parent.exists())  # the others come at the end
    try:
        beside = tempfile.TemporaryDirectory(dir=place, prefix=f".{path.name}.")
    except OSError as error:
        raise LinscoreError(f"cannot write to {place} ({error.strerror}): give another --out") from error
    with beside as temporary:
        folder = Path(temporary) / "checkpoint"  # one deeper: temporary folders are closed to other users
        folder.mkdir()
        yield folder
        path.parent.mkdir(parents=True, exist_ok=True)
        for file in filter(Path.is_file, folder.iterdir()):  # safetensors come out closed to other users
            file.chmod(PUBLIC & folder.stat().st_mode)
        folder.rename(path)


def save_checkpoint(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, record: Record) -> None:
    """Writes weights as safetensors, configuration, tokenizer, and `record` as `linscore.json`.

    With linear blocks in the model, also the code with which programs other than linscore load it.
    """
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / RECORD).write_text(record.to_json(), encoding="utf-8")
