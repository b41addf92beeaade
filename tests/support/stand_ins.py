"""Blocks whose output is replaced, and linear blocks by themselves."""

from collections.abc import Iterator
from contextlib import contextmanager

from tiny_models import FAMILIES
from torch import nn

from linscore import find_decoder
from linscore.models.linear_block import LinearBlock
from linscore.statistics.affine import AffineMap

STATE_SPACE = [family for family in FAMILIES if family.startswith("mamba")]
ATTENTION = [family for family in FAMILIES if family not in STATE_SPACE]


@contextmanager
def hooked(model: nn.Module, index: int, stand_in) -> Iterator[None]:
    """The block runs, and what it returns is replaced: an oracle that knows nothing of linear blocks."""

    def replace(_block, args, kwargs, output):
        y = stand_in(args[0] if args else kwargs["hidden_states"])
        return (y, *output[1:]) if isinstance(output, tuple) else y

    handle = find_decoder(model).blocks[index].register_forward_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def full_block(fitted: AffineMap, **kwargs) -> LinearBlock:
    return LinearBlock({"weight": fitted.b}, fitted.mean_x, fitted.mean_delta, **kwargs)
