"""Calling a decoder's backbone on token ids: what it is given, where, and in which mode."""

import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from linscore.decoder.find import Decoder, token_embedding
from linscore.errors import LinscoreError, reason
from linscore.machine.device import copied


def accepted(decoder: Decoder) -> Collection[str]:
    """The names of what the backbone can be given."""
    return inspect.signature(decoder.backbone.forward).parameters


def call(decoder: Decoder, inputs: Mapping[str, Tensor]) -> None:
    """Calls the backbone with `input_ids` and what goes with them: no cache, no gradients, no dropout.

    Raises:
        LinscoreError: if it fails on rows longer than what it was made for.
    """
    device = _input_device(decoder)
    given: dict[str, Any] = {key: copied(value, device) for key, value in inputs.items()}
    known = accepted(decoder)
    if "use_cache" in known:
        given["use_cache"] = False
    # Hugging Face models differ in the order of their arguments, other models in the name of the first.
    tokens = () if "input_ids" in known else (given.pop("input_ids"),)
    try:
        # no_grad, not inference_mode: accumulators born in a callback must stay ordinary tensors.
        with torch.no_grad(), evaluating(decoder.backbone), uncompiled():
            decoder.backbone(*tokens, **given)
    except (IndexError, RuntimeError, ValueError) as error:
        length, most = inputs["input_ids"].shape[1], decoder.context
        if isinstance(error, (LinscoreError, torch.OutOfMemoryError)) or not most or length <= most:
            raise
        raise LinscoreError(
            f"{decoder.name} was made for {most} tokens and does not run on {length} ({reason(error)}): give shorter "
            "rows (`seq_len`)"
        ) from error


def check_ids(name: str, embedding: nn.Embedding, input_ids: Tensor) -> None:
    """Make sure that every token has a row of the embedding: on a GPU nothing could be mended once it has failed.

    Raises:
        LinscoreError: if there are others.
    """
    least, most = map(int, input_ids.aminmax())
    if least < 0 or most >= embedding.num_embeddings:
        wrong = least if least < 0 else most
        raise LinscoreError(
            f"the text has the token id {wrong}, but the embedding of {name} has {embedding.num_embeddings} rows: take "
            "the model's own tokenizer, and resize the embedding where tokens were added to it"
        )


def check_length(decoder: Decoder, length: int) -> None:
    """Make sure that a model that learned or stored its positions has as many.

    Raises:
        LinscoreError: if it has fewer.
    """
    if decoder.positions is not None and length > decoder.positions:
        raise LinscoreError(
            f"{decoder.name} has {decoder.positions} positions, and a row has {length} tokens: give shorter rows "
            "(`seq_len`)"
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; modules that were frozen in evaluation mode stay so."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def uncompiled() -> AbstractContextManager[None]:
    """Runs compiled modules as they were written: hooks are not to be traced, or missed by what was traced before."""
    return torch.compiler.set_stance("force_eager")


def probe_tokens(decoder: Decoder, length: int = 8) -> Tensor:
    """Token ids spread over the vocabulary, [1, length]."""
    vocabulary = token_embedding(decoder.backbone).num_embeddings  # type: ignore[union-attr]
    return (torch.arange(length) * max(1, vocabulary // length) % vocabulary)[None]


def _input_device(decoder: Decoder) -> torch.device:
    """The device of the token embedding; the CPU if it is offloaded, since accelerate then moves the inputs itself."""
    weight = token_embedding(decoder.backbone).weight  # type: ignore[union-attr]
    return torch.device("cpu") if weight.is_meta else weight.device
