"""All states of a decoder at once: what a streamed score must equal."""

import torch

from linscore.decoder.find import find_decoder


def stacked_states(model: torch.nn.Module, ids: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """All (x, y) of every block, stacked in memory, by hooks of this test's own."""
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def hook(_block, args, kwargs, output):
        x = args[0] if args else kwargs["hidden_states"]
        y = output[0] if isinstance(output, tuple) else output
        pairs.append((x.flatten(0, 1).clone(), y.flatten(0, 1).clone()))

    handles = [block.register_forward_hook(hook, with_kwargs=True) for block in find_decoder(model).blocks]
    with torch.no_grad():
        model.eval()(ids)
    for handle in handles:
        handle.remove()
    return pairs
