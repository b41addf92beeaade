"""What attention and MLP each add to the residual stream inside one block: y = x + attention + mlp.

Which modules give the two contributions differs by family (a norm after the MLP, a residual added inside it, …), so
candidates are tried and the first pair that adds up in every block is taken.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from linscore.decoder.call import probe_tokens
from linscore.decoder.find import Decoder
from linscore.decoder.run import states_on
from linscore.decoder.states import BlockStates, SubBlocks, first_tensor, has_path
from linscore.errors import LinscoreError

__all__ = ["cross_attention", "disturbed", "find_sub_blocks"]

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

# What families call the attention to an encoder's states.
CROSS_ATTENTION = ("encoder_attn", "crossattention", "cross_attn", "cross_attention", "EncDecAttention")


def cross_attention(decoder: Decoder) -> str | None:
    """What blocks call their attention to states of an encoder, which only token ids never reach; None without one."""
    names = (path.rpartition(".")[-1] for block in decoder.blocks for path, _ in block.named_modules())
    return next((name for name in names if name in CROSS_ATTENTION), None)


def search_sub_blocks(
    name: str, blocks: Sequence[nn.Module], probe: Callable[[SubBlocks], dict[int, BlockStates]]
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
        raise LinscoreError(f"{name}: its blocks ({type(blocks[0]).__name__}) expose no {lacking}; take whole blocks")
    for pair in product(attentions, mlps):
        states = _try(probe, SubBlocks(*pair, parallel=False))
        if states and all(map(adds_up, states.values())):
            return SubBlocks(*pair, parallel=_is_parallel(name, blocks, pair, states, probe))
    raise LinscoreError(
        f"{name}: no pair of {attentions} and {mlps} adds up to what a block adds (norms after the sum, or scaled "
        "residuals, cannot be split); take whole blocks"
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
    blocks: Sequence[nn.Module],
    pair: tuple[str, str],
    states: dict[int, BlockStates],
    probe: Callable[[SubBlocks], dict[int, BlockStates]],
) -> bool:
    """Whether the MLP stays the same when the attention of its block is disturbed."""
    index = next((i for i, s in states.items() if s.mlp is not None and s.mlp.any()), None)
    if index is None:
        raise LinscoreError(f"{name}: its MLPs add nothing, so what they read cannot be told; take whole blocks")
    with disturbed(blocks[index].get_submodule(pair[0]), states[index].x):
        moved = probe(SubBlocks(*pair, parallel=False))[index].mlp
    before, after = (torch.nan_to_num(m.float()) for m in (states[index].mlp, moved) if m is not None)
    return bool((after - before).norm() <= 1e-3 * before.norm())


@contextmanager
def disturbed(module: nn.Module, x: Tensor) -> Iterator[None]:
    """Adds to the module's output something of the size of x, for as long as the context lasts.

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


def find_sub_blocks(decoder: Decoder, among: Collection[int] | None = None) -> SubBlocks:
    """Finds which modules give the contributions of attention and MLP, by trying on a few tokens.

    Args:
        decoder: from `find_decoder`.
        among: the blocks that have both; all by default.

    Raises:
        LinscoreError: if no pair adds up to what the blocks add (post-norm OPT) or there is no MLP (Mamba).
    """
    tokens, indices = probe_tokens(decoder), range(len(decoder.blocks)) if among is None else sorted(among)

    def probe(pair: SubBlocks) -> dict[int, BlockStates]:
        found = states_on(decoder, tokens, pair, indices)
        return {place: found[index] for place, index in enumerate(indices) if index in found}

    return search_sub_blocks(decoder.name, [decoder.blocks[index] for index in indices], probe)
