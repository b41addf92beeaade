"""Gradients of the loss at the states of the residual stream, read by hooks in a backward pass.

Only states have gradients: weights take none while they are read. A block keeps nothing for the backward pass but what
enters it, and runs once more there (gradient checkpointing), so no more is held than one block's activations and a
state for each block.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from linscore.decoder.call import check_ids, check_length, evaluating, uncompiled
from linscore.decoder.find import Decoder, token_embedding
from linscore.decoder.in_use import in_use
from linscore.decoder.stand_ins import restore_forward
from linscore.decoder.states import SubBlocks, first_tensor
from linscore.errors import LinscoreError, reason
from linscore.machine.device import copied
from linscore.machine.memory import is_out_of_memory
from linscore.spans import Part

__all__ = ["loss_gradients"]

CHUNK = 4096  # positions whose logits are float32 at a time
Receive = Callable[[int, Part | None, Tensor], None]


def loss_gradients(
    decoder: Decoder, input_ids: Tensor, receive: Receive, blocks: Collection[int], attention: SubBlocks | None = None
) -> None:
    """Calls `receive(index, part, gradient)` with ∂(Σ loss)/∂(state after block `index`), the last block first.

    The loss is that of each next token, in nats, summed: a row of the gradient is what the loss of all tokens gains by
    a small change of that one state.

    Args:
        decoder: with its language-model head; it keeps its mode, its weights and their gradients.
        input_ids: [batch, seq] integers without padding, seq at least 2, on any device.
        receive: is given [batch, seq − 1, d] in the dtype of the states, for the tokens that have a next one; part is
            None. It must not modify them.
        blocks: indices of the blocks after which gradients are taken.
        attention: whose attention's contribution is added before the MLP reads the state: then part "attention" is the
            state between the two, too.

    Raises:
        LinscoreError: for a model without a head, weights that are elsewhere, or where no gradient comes through.
    """
    _check(decoder, input_ids)
    model: Any = decoder.model
    ids = copied(input_ids, _device(decoder))
    options = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    seen: set[tuple[int, Part | None]] = set()

    def received(index: int, part: Part | None, gradient: Tensor) -> None:
        seen.add((index, part))
        with torch.no_grad():
            receive(index, part, gradient)

    watched = _watched(decoder, received, blocks, attention)
    try:
        # A caller's inference mode would leave nothing to differentiate.
        with torch.inference_mode(False), torch.enable_grad(), evaluating(model), uncompiled(), watched:
            _loss(model(input_ids=ids[:, :-1], **options).logits, ids[:, 1:]).backward()
    except Exception as error:
        if isinstance(error, LinscoreError) or is_out_of_memory(error):
            raise
        raise _without_gradient(decoder, f"{type(error).__name__}: {reason(error)}") from error
    if len(seen) < len(blocks) * (1 if attention is None else 2):
        raise _without_gradient(decoder, "it does not reach every block")


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    pairs = zip(logits.flatten(0, 1).split(CHUNK), targets.to(logits.device).flatten().split(CHUNK), strict=True)
    return torch.stack(
        [
            cross_entropy(part.to(torch.promote_types(part.dtype, torch.float32)), ids, reduction="sum")
            for part, ids in pairs
        ]
    ).sum()


@contextmanager
def _watched(
    decoder: Decoder, receive: Receive, blocks: Collection[int], attention: SubBlocks | None
) -> Iterator[None]:
    """For as long as the context lasts, states have gradients, weights have none, and `receive` is told."""
    embedding = token_embedding(decoder.backbone)
    assert embedding is not None
    with in_use(decoder), _frozen(decoder.model), ExitStack() as hooks:
        hooks.callback(embedding.register_forward_hook(_begin).remove)
        for block in decoder.blocks:
            _checkpoint(hooks, block)
        for index in blocks:
            block = decoder.blocks[index]
            hooks.callback(block.register_forward_hook(_teller(receive, index, None)).remove)
            if attention is not None:
                module = block.get_submodule(attention.attention)
                hooks.callback(module.register_forward_hook(_teller(receive, index, "attention")).remove)
        yield


def _begin(_embedding: nn.Module, _args: Any, output: Tensor) -> Tensor:
    """The copy, because some families change what the embedding gives in place."""
    return output.detach().requires_grad_().clone()


def _teller(receive: Receive, index: int, part: Part | None) -> Callable[..., None]:
    """A forward hook; when a block runs once more, what it gives then is no part of the graph and tells nothing."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        first_tensor(output).register_hook(lambda gradient: receive(index, part, gradient))

    return hook


def _checkpoint(hooks: ExitStack, block: nn.Module) -> None:
    forward, former = block.forward, vars(block).get("forward")

    def run(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(partial(forward, **kwargs), *args, use_reentrant=False, preserve_rng_state=False)

    hooks.callback(restore_forward, block, former)
    block.forward = run


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _check(decoder: Decoder, input_ids: Tensor) -> None:
    head = getattr(decoder.model, "get_output_embeddings", None)
    if head is None or head() is None:
        raise LinscoreError(f"{decoder.name} has no language-model head, and so no loss: leave out `sensitivity`")
    if any(parameter.is_meta for parameter in decoder.model.parameters()):
        raise LinscoreError(
            f"{decoder.name} is not in memory as a whole, and gradients are to come through it: leave out `sensitivity`"
        )
    check_ids(decoder.name, token_embedding(decoder.backbone), input_ids)  # type: ignore[arg-type]
    check_length(decoder, input_ids.shape[1] - 1)


def _device(decoder: Decoder) -> torch.device:
    embedding = token_embedding(decoder.backbone)
    assert embedding is not None
    return embedding.weight.device


def _without_gradient(decoder: Decoder, why: str) -> LinscoreError:
    return LinscoreError(
        f"{decoder.name}: no gradient of its loss comes through ({why}): leave out `sensitivity`, or give weights that "
        "are neither quantized nor in pieces"
    )
