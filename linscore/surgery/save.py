"""Checkpoints that are whole or not there: written beside their place, and moved into it at the end."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from linscore.models.quiet import quiet
from linscore.models.read_back import check_saved

__all__ = ["save_checkpoint"]


def save_checkpoint(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes weights as safetensors, configuration and tokenizer; its record goes beside them (`Record.save`).

    With linear blocks in the model, also the code with which programs other than linscore load it.

    Raises:
        LinscoreError: if what was written would not load as the model.
    """
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    check_saved(folder, model)
