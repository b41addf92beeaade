"""Checkpoints that are whole or not there: written beside their place, and moved into it at the end."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from linscore.models.quiet import quiet
from linscore.surgery.record import RECORD, Record

__all__ = ["save_checkpoint"]


def save_checkpoint(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, record: Record) -> None:
    """Writes weights as safetensors, configuration, tokenizer, and `record` as `linscore.json`.

    With linear blocks in the model, also the code with which programs other than linscore load it.
    """
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / RECORD).write_text(record.to_json(), encoding="utf-8")
