"""Moments of spans, and what hooks of the tests' own saw of the same pass."""

import torch

from linscore import find_decoder
from linscore.spans import Span

SPANS = [Span(0, 1), Span(1, 2), Span(0, 2)]
FUSE = [Span(1, 1), Span(2, 2), Span(1, 2)]


def tokens(sequences: int = 12, length: int = 16) -> torch.Tensor:
    return torch.randint(3, 64, (sequences, length), generator=torch.Generator().manual_seed(0))


def rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().reshape(-1, tensor.shape[-1])


def observe(model: torch.nn.Module, ids: torch.Tensor, path: str | None = None) -> dict[str, list[torch.Tensor]]:
    """h_0 to h_L, and of each block the input m and the output M of its projection, as rows of tokens: own hooks."""
    seen: dict[str, list[torch.Tensor]] = {"h": [], "m": [], "M": []}

    def enters(_block, args, kwargs):
        seen["h"].append(rows(kwargs.get("hidden_states", args[0] if args else None)))

    def leaves(_block, _args, output):
        seen["h"].append(rows(output[0] if isinstance(output, tuple) else output))

    def projects(_layer, args, output):
        seen["m"].append(rows(args[0]))
        seen["M"].append(rows(output))

    blocks = find_decoder(model).blocks
    handles = [block.register_forward_pre_hook(enters, with_kwargs=True) for block in blocks]
    handles += [blocks[-1].register_forward_hook(leaves)]
    handles += [block.get_submodule(path).register_forward_hook(projects) for block in blocks if path]
    with torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()
    return seen
