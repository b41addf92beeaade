"""Training that keeps a decoder's blocks close to the identity, or to linear maps, and watching it.

`linscore.training.trainer` and `linscore.training.callback` are for transformers' Trainer, which only they import.
"""

from linscore.training.regularizer import LinearityRegularizer
from linscore.training.taps import Chain, Terms, layer_loss, tap

__all__ = ["Chain", "LinearityRegularizer", "Terms", "layer_loss", "tap"]
