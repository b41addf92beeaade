"""Affine maps to the last state as a tuned lens, in the files of the `tuned-lens` package (version 0.2).

Translator i takes the state entering block i to the last one: h + h W_iᵀ + b_i with W_i = Bᵀ and b_i = μ_δ − μ_x B.
Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens", 2023 (arXiv:2303.08112).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from linscore.decoder.find import Decoder, find_decoder
from linscore.errors import LinscoreError
from linscore.files.json_file import json_text
from linscore.files.whole import new_folder
from linscore.statistics.affine import AffineMap

__all__ = ["export_tuned_lens"]


def export_tuned_lens(folder: str | Path, maps: Sequence[AffineMap], model: PreTrainedModel) -> None:
    """Write what `TunedLens.from_model_and_pretrained(model, folder)` of the tuned-lens package reads.

    That format is `config.json` and `params.pt`: a plain state_dict of float32 tensors, which `torch.save` writes and
    `torch.load(weights_only=True)` reads. A lens takes the dtype of the model's unembedding when it is loaded.

    Args:
        folder: must not be there yet.
        maps: one for each block, in their order: from the state entering it to the last state, which the final norm
            gets; `fit_block_map` gives them from the moments of the spans i … L−1.
        model: whose states these are, with its language-model head.

    Raises:
        LinscoreError: when `folder` exists, the number or width of the maps does not fit, or the model has no linear
            head over its last state.

    Examples:
        >>> spans = [linscore.Span(block, 5) for block in range(5)]
        >>> pairs = linscore.score(model, batches, spans=spans).moments
        >>> names = [f"span.{span}" for span in spans] + ["block.5"]
        >>> linscore.export_tuned_lens("lens", [linscore.fit_block_map(pairs[name]) for name in names], model)
    """
    decoder = find_decoder(model)
    head = _head(model, decoder)
    _check(decoder, maps)
    config = {
        "base_model_name_or_path": model.config.name_or_path,
        "d_model": decoder.width,
        "num_hidden_layers": len(maps),
        "bias": True,
        "base_model_revision": None,
        "unembed_hash": _unembed_hash(head),
        "lens_type": "linear_tuned_lens",
    }
    parameters = {name: tensor for index, fitted in enumerate(maps) for name, tensor in _translator(index, fitted)}
    with new_folder(folder) as new:
        (new / "config.json").write_text(json_text(config, folder), encoding="utf-8")
        torch.save(parameters, new / "params.pt")


def _head(model: PreTrainedModel, decoder: Decoder) -> nn.Linear:
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    if not isinstance(head, nn.Linear) or head.in_features != decoder.width:
        raise LinscoreError(
            f"{decoder.name} has no linear head over states of width {decoder.width}, which a lens reads them by: give "
            "a causal language model"
        )
    return head


def _check(decoder: Decoder, maps: Sequence[AffineMap]) -> None:
    if len(maps) != len(decoder.blocks):
        raise LinscoreError(f"{len(maps)} maps for the {len(decoder.blocks)} blocks of {decoder.name}: give one each")
    for index, fitted in enumerate(maps):
        if fitted.b.shape != (decoder.width, decoder.width):
            raise LinscoreError(
                f"map {index} has shape {list(fitted.b.shape)}, but {decoder.name} has width {decoder.width}: take the "
                "moments from this model"
            )


def _translator(index: int, fitted: AffineMap) -> list[tuple[str, Tensor]]:
    """Name and value, float32, of weight `[d, d]` and bias `[d]`."""
    bias = fitted.mean_delta - fitted.mean_x @ fitted.b
    values = {"weight": fitted.b.T, "bias": bias}
    return [(f"{index}.{name}", value.to("cpu", torch.float32).contiguous()) for name, value in values.items()]


def _unembed_hash(head: nn.Linear) -> str:
    """By which the package knows the unembedding: SHA-256 of how NumPy prints the matrix with one digit."""
    weight = head.weight.detach().cpu().float().numpy()
    return hashlib.sha256(np.array_str(weight, precision=1).encode()).hexdigest()
