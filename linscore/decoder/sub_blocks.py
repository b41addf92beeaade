"""What attention and MLP each add to the residual stream inside one block: y = x + attention + mlp.

Which modules give the two contributions differs by family (a norm after the MLP, a residual added inside it, …), so
candidates are tried and the first pair that adds up in every block is taken.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from linscore.errors import LinscoreError

__all__ = ["BlockStates", "SubBlocks", "hook_block", "search_sub_blocks"]

# Outermost first: a norm after the sub-block (Gemma 2/3, OLMo 2, GLM 4) has the last word on what is added. In other
# families a norm of that name stands before the MLP, and the sum tells. A path inside a sub-block is for the families
# that add the residual within it (BLOOM, MPT).
ATTENTION = (
    "post_attention_layernorm",
    "post_self_attn_layernorm",
    "self_attn",
    "attn",
    "attention",
    "self_attention",
    "self_attention.dense",
    "attn.out_proj",
    "mixer",
)
MLP = (
    "post_feedforward_layernorm",
    "post_mlp_layernorm",
    "mlp",
    "mlp.dense_4h_to_h",
    "ffn",
    "ffn.down_proj",
    "feed_forward",
    "block_sparse_moe",
    "fc2",
)


@dataclass(frozen=True)
class SubBlocks:
    """Which modules of a block give what its attention and its MLP add to the residual stream.

    Attributes:
        attention: path inside a block, e.g. ``"self_attn"``; its output (the first, if several) is the contribution.
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
    """Calls ``callback`` with the states each time ``block`` has run, until ``hooks`` is closed.

    Raises:
        LinscoreError: now, if the block lacks a path of ``sub_blocks``; at the hook, if states cannot be read.
    """
    added: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            # Falcon adds its attention to the MLP's output in place, hence the copy.
            added[path] = first_tensor(output).clone()

        return hook

    def hand_over(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        y = first_tensor(output)
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


def _contributions(x: Tensor, added: dict[str, Tensor], sub_blocks: SubBlocks) -> tuple[Tensor, Tensor, Tensor]:
    """Attention, MLP and the MLP's input, each in the shape of x (OPT flattens batch and sequence for its MLP)."""
    for path in (sub_blocks.attention, sub_blocks.mlp):
        if path not in added or added[path].numel() != x.numel():
            raise LinscoreError(f"module {path!r} adds nothing to the residual stream: use find_sub_blocks")
    attention, mlp = added[sub_blocks.attention].reshape(x.shape), added[sub_blocks.mlp].reshape(x.shape)
    return attention, mlp, x if sub_blocks.parallel else x + attention


def search_sub_blocks(
    name: str, blocks: nn.ModuleList, probe: Callable[[SubBlocks], dict[int, BlockStates]]
) -> SubBlocks:
    """Finds the pair of modules whose outputs add up to what every block adds, and how the pair is wired.

    Args:
        name: of the model, for the message.
        blocks: the decoder blocks.
        probe: runs a few tokens, watching the sub-blocks it is given: block index to states.

    Raises:
        LinscoreError: if there is no such pair, with the reason.
    """
    attentions, mlps = ([p for p in paths if all(has_path(b, p) for b in blocks)] for paths in (ATTENTION, MLP))
    if not (attentions and mlps):
        lacking = "attention" if mlps else "MLP"
        raise LinscoreError(f"{name}: its blocks ({type(blocks[0]).__name__}) expose no {lacking}; score whole blocks")
    for pair in product(attentions, mlps):
        states = _try(probe, SubBlocks(*pair, parallel=False))
        if states and all(map(adds_up, states.values())):
            return SubBlocks(*pair, parallel=_is_parallel(name, blocks, pair, states, probe))
    raise LinscoreError(
        f"{name}: no pair of {attentions} and {mlps} adds up to what a block adds (norms after the sum, or scaled "
        "residuals, cannot be split); score whole blocks"
    )


def _try(probe: Callable[[SubBlocks], dict[int, BlockStates]], sub_blocks: SubBlocks) -> dict[int, BlockStates]:
    """Probe, or nothing where a candidate is not called or has another shape than the stream."""
    try:
        return probe(sub_blocks)
    except LinscoreError:
        return {}


def adds_up(states: BlockStates) -> bool:
    """Whether y = x + attention + mlp, element by element, to the rounding of two additions in the dtype of y."""
    assert states.attention is not None
    assert states.mlp is not None
    # On the CPU, since not every device has float64; a probe is a few tokens.
    x, y, attention, mlp = (t.cpu().double() for t in (states.x, states.y, states.attention, states.mlp))
    error = (y - (x + attention + mlp)).abs()
    # A sum over elements would let a wrong pair pass in bfloat16, where δ is hardly larger than the rounding of x.
    bound = torch.finfo(states.y.dtype).eps * (x.abs() + attention.abs() + mlp.abs())
    finite = error.isfinite()
    return bool(finite.any() and (error <= bound)[finite].all())


def _is_parallel(
    name: str,
    blocks: nn.ModuleList,
    pair: tuple[str, str],
    states: dict[int, BlockStates],
    probe: Callable[[SubBlocks], dict[int, BlockStates]],
) -> bool:
    """Whether the MLP stays the same when the attention of its block is disturbed."""
    index = next((i for i, s in states.items() if s.mlp is not None and s.mlp.any()), None)
    if index is None:
        raise LinscoreError(f"{name}: its MLPs add nothing, so what they read cannot be told; score whole blocks")
    with _disturbed(blocks[index].get_submodule(pair[0]), states[index].x):
        disturbed = probe(SubBlocks(*pair, parallel=False))[index].mlp
    before, after = (torch.nan_to_num(m.float()) for m in (states[index].mlp, disturbed) if m is not None)
    return bool((after - before).norm() <= 1e-3 * before.norm())


@contextmanager
def _disturbed(module: nn.Module, x: Tensor) -> Iterator[None]:
    """Adds to the module's output something of the size of x.

    Zeroing it would not show where the attention adds nothing yet (fresh or pruned blocks), and a constant would not
    get through a layer norm: hence alternating signs.
    """

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        out = first_tensor(output)
        signs = 1 - 2 * (torch.arange(out.shape[-1], device=out.device) % 2)
        changed = out + (signs * torch.nan_to_num(x.float()).abs().mean()).to(out)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


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
    """Whether ``path`` leads to a submodule; an identity would only give its input."""
    try:
        return not isinstance(module.get_submodule(path), nn.Identity)
    except AttributeError:
        return False
