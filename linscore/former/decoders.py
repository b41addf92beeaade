"""Moved: `find_decoder` is a name of `linscore` itself, the others are in `linscore.decoder`."""

from linscore.decoder.find import Decoder, find_decoder, weight_sample
from linscore.decoder.run import check_causal, run, watch
from linscore.decoder.states import BlockStates, SubBlocks
from linscore.decoder.sub_blocks import find_sub_blocks

__all__ = [
    "BlockStates",
    "Decoder",
    "SubBlocks",
    "check_causal",
    "find_decoder",
    "find_sub_blocks",
    "run",
    "watch",
    "weight_sample",
]
