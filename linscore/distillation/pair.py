"""A student beside its teacher: which losses count, and whether the two models fit each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from linscore.decoder.find import Decoder, find_decoder
from linscore.decoder.wrapped import check_own_modules
from linscore.distillation.losses import Student, Weights
from linscore.distillation.parameters import in_float32
from linscore.errors import LinscoreError
from linscore.text.batch import Batch

__all__ = ["measure", "pair_up", "wanted"]


def wanted(pairs: Mapping[int, int], hidden: float, kl: float, lm: float) -> tuple[dict[int, int], Weights]:
    """The pairs and weights that are computed: without pairs there is no loss of states, and without it no pairs.

    Raises:
        LinscoreError: for weights below 0 or not finite, and when nothing is left to train on.
    """
    values = (hidden, kl, lm)
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise LinscoreError(f"`hidden`, `kl` and `lm` are {values}: give weights of 0 or more")
    weights = Weights(hidden if pairs else 0.0, kl, lm)
    if not (weights.hidden or kl or lm):
        raise LinscoreError("there is no loss to train on: give `kl` or `lm`, or `hidden` with pairs of blocks")
    return dict(pairs) if hidden else {}, weights


def pair_up(
    student: nn.Module, teacher: nn.Module, pairs: Mapping[int, int], weights: Weights
) -> tuple[Student, Decoder]:
    """The student with its losses, and the teacher's decoder.

    Raises:
        LinscoreError: when one is no decoder, the student has adapters, a block of `pairs` is not there, or width or
            vocabulary differ.
    """
    ours, theirs = find_decoder(student), find_decoder(teacher)
    check_own_modules(ours.model, ours.name)
    _check_models(ours, theirs, pairs)
    return Student(ours, pairs, weights), theirs


def measure(
    student: nn.Module, teacher: nn.Module, batches: Iterable[Batch], pairs: Mapping[int, int], weights: Weights
) -> dict[str, float | None]:
    """Means over `batches` of "loss", "hidden", "kl" and "lm" as in `DistilLoss`, without gradients.

    16-bit students are computed in float32, as they are trained.

    Args:
        student: runs in the mode it is in, as in `distil`.
        teacher: runs in evaluation mode.
        batches: token ids `[B, T]` each, or dicts as in `distil`; one at least.
        pairs: from `wanted`, as `weights`.
        weights: of the losses; one of weight 0 is None.

    Raises:
        LinscoreError: when the models do not fit each other, or the loss is not finite.
    """
    losses, theirs = pair_up(student, teacher, pairs, weights)
    with in_float32(student), torch.no_grad():
        found = [losses(losses.see(theirs, batch)) for batch in batches]
    columns = zip(*((total, *parts) for total, parts in found), strict=True)
    means = [None if values[0] is None else float(torch.stack(values).double().mean()) for values in columns]
    if not math.isfinite(means[0] or 0.0):
        raise LinscoreError(f"the loss is {means[0]}: look for broken weights, or train with a lower learning rate")
    return dict(zip(("loss", "hidden", "kl", "lm"), means, strict=True))


def _check_models(student: Decoder, teacher: Decoder, pairs: Mapping[int, int]) -> None:
    for what, decoder, blocks in (("student", student, pairs.keys()), ("teacher", teacher, pairs.values())):
        missing = sorted(set(blocks) - set(range(len(decoder.blocks))))
        if missing:
            raise LinscoreError(f"the {what} has no blocks {missing}: choose from 0 to {len(decoder.blocks) - 1}")
    sizes = [(decoder.width, _vocabulary(decoder)) for decoder in (student, teacher)]
    if sizes[0] != sizes[1]:
        (width, vocabulary), (wide, words) = sizes
        raise LinscoreError(
            f"the student has width {width} and {vocabulary} token ids, the teacher {wide} and {words}: give the model "
            "that the student was cut from"
        )


def _vocabulary(decoder: Decoder) -> int:
    """How many token ids can be embedded."""
    embedding: nn.Embedding = decoder.backbone.get_input_embeddings()  # type: ignore[operator]
    return embedding.num_embeddings
