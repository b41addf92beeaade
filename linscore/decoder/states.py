"""The residual stream around one block, read by hooks."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from linscore.errors import LinscoreError


@dataclass(frozen=True)
class SubBlocks:
    """Which modules of a block give what its attention and its MLP add to the residual stream.

    Attributes:
        attention: path inside a block, e.g. `"self_attn"`; its output (the first, if several) is the contribution.
        mlp: the same for the MLP.
        parallel: both read x (GPT-NeoX, GPT-J, Phi, Falcon); otherwise the MLP reads x + attention.
    """

    attention: str
    mlp: str
    parallel: bool


@dataclass(frozen=True)
class BlockStates:
    """The residual stream around one block; every tensor is [batch, seq, d].

    Attributes:
        x: entering the block.
        y: leaving it, before any final norm.
        attention: what the attention adds to the stream, where sub-blocks are watched.
        mlp: what the MLP adds to the stream; y = x + attention + mlp.
        mlp_input: the stream the MLP adds to: x + attention, or x when both run in parallel.
    """

    x: Tensor
    y: Tensor
    attention: Tensor | None = None
    mlp: Tensor | None = None
    mlp_input: Tensor | None = None


def hook_block(
    hooks: ExitStack, block: nn.Module, callback: Callable[[BlockStates], None], sub_blocks: SubBlocks | None
) -> None:
    """Calls `callback` with the states each time `block` has run, until `hooks` is closed.

    Raises:
        LinscoreError: now, if the block lacks a path of `sub_blocks`; at the hook, if states cannot be read.
    """
    added: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            # Falcon adds its attention to the MLP's output in place, hence the copy.
            added[path] = first_tensor(output).clone()

        return hook

    def hand_over(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        y = first_tensor(output)
        _check_single(y, output)
        # Under accelerate's device_map a block's inputs move to its device only after the hook saw them.
        x = entering_state(args, kwargs).to(y.device)
        states = BlockStates(x, y, *_contributions(x, added, sub_blocks)) if sub_blocks else BlockStates(x, y)
        added.clear()
        callback(states)

    for path in (sub_blocks.attention, sub_blocks.mlp) if sub_blocks else ():
        if not has_path(block, path):
            raise LinscoreError(f"{type(block).__name__} has no module {path!r}: take sub-blocks from find_sub_blocks")
        hooks.callback(block.get_submodule(path).register_forward_hook(keep(path)).remove)
    hooks.callback(block.register_forward_hook(hand_over, with_kwargs=True).remove)


def _check_single(y: Tensor, output: Any) -> None:
    """Raises LinscoreError for a block that gives two states (Reformer): one of them alone is no residual stream."""
    second = output[1] if isinstance(output, (tuple, list)) and len(output) > 1 else None
    if isinstance(second, Tensor) and second.shape == y.shape and second.dtype == y.dtype:
        raise LinscoreError("a block gives two states of one shape: several residual streams cannot be scored")


def _contributions(x: Tensor, added: dict[str, Tensor], sub_blocks: SubBlocks) -> tuple[Tensor, Tensor, Tensor]:
    """Attention, MLP and the MLP's input, each in the shape of x (OPT flattens batch and sequence for its MLP)."""
    for path in (sub_blocks.attention, sub_blocks.mlp):
        if path not in added or added[path].numel() != x.numel():
            raise LinscoreError(f"module {path!r} adds nothing to the residual stream: use find_sub_blocks")
    attention, mlp = added[sub_blocks.attention].reshape(x.shape), added[sub_blocks.mlp].reshape(x.shape)
    return attention, mlp, x if sub_blocks.parallel else x + attention


def entering_state(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The state that a block is called with, by name or first; LinscoreError if there is none."""
    return first_tensor(kwargs.get("hidden_states", args))


def first_tensor(output: Any) -> Tensor:
    """A tensor, or the first of a tuple of outputs or arguments.

    Raises:
        LinscoreError: if there is none.
    """
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise LinscoreError("a block neither takes nor gives hidden states first: this model cannot be read")
    return output


def has_path(module: nn.Module, path: str) -> bool:
    """Whether `path` leads to a submodule; an identity would only give its input."""
    try:
        return not isinstance(module.get_submodule(path), nn.Identity)
    except AttributeError:
        return False
