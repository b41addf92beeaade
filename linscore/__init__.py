"""linscore: how linear each block of a transformer decoder is, streaming over millions of tokens.

Names are imported when they are first used: torch and transformers take seconds, and `linscore --help` needs neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linscore_kernels import centered_gram as centered_gram

    from linscore.collect import Collector as Collector
    from linscore.decoders import find_decoder as find_decoder
    from linscore.distillation.training import distil as distil
    from linscore.errors import LinscoreError as LinscoreError
    from linscore.evaluation.perplexity import TextLoss as TextLoss
    from linscore.evaluation.perplexity import text_loss as text_loss
    from linscore.maps import FittedMap as FittedMap
    from linscore.maps import fit_block_map as fit_block_map
    from linscore.metrics import BlockMetrics as BlockMetrics
    from linscore.metrics import block_metrics as block_metrics
    from linscore.moments import Moments as Moments
    from linscore.moments_file import load_moments as load_moments
    from linscore.moments_file import save_moments as save_moments
    from linscore.pretrained import load as load
    from linscore.pretrained import load_pretrained as load_pretrained
    from linscore.ranking import rank as rank
    from linscore.report import BlockReport as BlockReport
    from linscore.report import Report as Report
    from linscore.scoring import score as score
    from linscore.spans import Span as Span
    from linscore.surgery.choose import Choice as Choice
    from linscore.surgery.choose import choose as choose
    from linscore.surgery.choose import losses_without as losses_without
    from linscore.surgery.drop import drop as drop
    from linscore.surgery.fuse import Fusion as Fusion
    from linscore.surgery.fuse import fit_fusion as fit_fusion
    from linscore.surgery.fuse import fuse as fuse
    from linscore.surgery.linearize import linearize as linearize
    from linscore.surgery.record import Record as Record
    from linscore.surgery.tuned_lens import export_tuned_lens as export_tuned_lens
    from linscore.training.regularizer import LinearityRegularizer as LinearityRegularizer
    from linscore.training.taps import layer_loss as layer_loss

_HOMES = {
    "BlockMetrics": "linscore.metrics",
    "BlockReport": "linscore.report",
    "Choice": "linscore.surgery.choose",
    "Collector": "linscore.collect",
    "FittedMap": "linscore.maps",
    "Fusion": "linscore.surgery.fuse",
    "LinearityRegularizer": "linscore.training.regularizer",
    "LinscoreError": "linscore.errors",
    "Moments": "linscore.moments",
    "Record": "linscore.surgery.record",
    "Report": "linscore.report",
    "Span": "linscore.spans",
    "TextLoss": "linscore.evaluation.perplexity",
    "block_metrics": "linscore.metrics",
    "centered_gram": "linscore_kernels",
    "choose": "linscore.surgery.choose",
    "distil": "linscore.distillation.training",
    "drop": "linscore.surgery.drop",
    "export_tuned_lens": "linscore.surgery.tuned_lens",
    "find_decoder": "linscore.decoders",
    "fit_block_map": "linscore.maps",
    "fit_fusion": "linscore.surgery.fuse",
    "fuse": "linscore.surgery.fuse",
    "layer_loss": "linscore.training.taps",
    "linearize": "linscore.surgery.linearize",
    "load": "linscore.pretrained",
    "load_moments": "linscore.moments_file",
    "load_pretrained": "linscore.pretrained",
    "losses_without": "linscore.surgery.choose",
    "rank": "linscore.ranking",
    "save_moments": "linscore.moments_file",
    "score": "linscore.scoring",
    "text_loss": "linscore.evaluation.perplexity",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'linscore' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
