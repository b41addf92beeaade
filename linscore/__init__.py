"""linscore: how linear each block of a transformer decoder is, streaming over millions of tokens.

Names are imported when they are first used: torch and transformers take seconds, and `linscore --help` needs neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linscore_kernels import centered_gram as centered_gram

    from linscore.decoder.find import find_decoder as find_decoder
    from linscore.distillation.distil import distil as distil
    from linscore.dynamics.callback import LinearityCallback as LinearityCallback
    from linscore.errors import LinscoreError as LinscoreError
    from linscore.evaluation.perplexity import TextLoss as TextLoss
    from linscore.evaluation.perplexity import text_loss as text_loss
    from linscore.models.load import load as load
    from linscore.models.load import load_pretrained as load_pretrained
    from linscore.options.place import KeepOptions as KeepOptions
    from linscore.options.score import ScoreOptions as ScoreOptions
    from linscore.regularization.regularizer import LinearityRegularizer as LinearityRegularizer
    from linscore.regularization.taps import layer_loss as layer_loss
    from linscore.regularization.trainer import LinearityRegularizerMixin as LinearityRegularizerMixin
    from linscore.regularization.trainer import RegularizedTrainer as RegularizedTrainer
    from linscore.scoring.collect import Collector as Collector
    from linscore.scoring.given_states import score_states as score_states
    from linscore.scoring.ranking import rank as rank
    from linscore.scoring.report import BlockReport as BlockReport
    from linscore.scoring.report import Report as Report
    from linscore.scoring.score import score as score
    from linscore.scoring.watch import watch as watch
    from linscore.spans import Span as Span
    from linscore.statistics.figures import BlockMetrics as BlockMetrics
    from linscore.statistics.figures import block_metrics as block_metrics
    from linscore.statistics.figures import linearity as linearity
    from linscore.statistics.maps import FittedMap as FittedMap
    from linscore.statistics.maps import fit_block_map as fit_block_map
    from linscore.statistics.moments import Moments as Moments
    from linscore.statistics.moments_file import load_moments as load_moments
    from linscore.statistics.moments_file import save_moments as save_moments
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

_HOMES = {
    "BlockMetrics": "linscore.statistics.figures",
    "BlockReport": "linscore.scoring.report",
    "Choice": "linscore.surgery.choose",
    "Collector": "linscore.scoring.collect",
    "FittedMap": "linscore.statistics.maps",
    "Fusion": "linscore.surgery.fuse",
    "KeepOptions": "linscore.options.place",
    "LinearityCallback": "linscore.dynamics.callback",
    "LinearityRegularizer": "linscore.regularization.regularizer",
    "LinearityRegularizerMixin": "linscore.regularization.trainer",
    "LinscoreError": "linscore.errors",
    "Moments": "linscore.statistics.moments",
    "Record": "linscore.surgery.record",
    "RegularizedTrainer": "linscore.regularization.trainer",
    "Report": "linscore.scoring.report",
    "ScoreOptions": "linscore.options.score",
    "Span": "linscore.spans",
    "TextLoss": "linscore.evaluation.perplexity",
    "block_metrics": "linscore.statistics.figures",
    "centered_gram": "linscore_kernels",
    "choose": "linscore.surgery.choose",
    "distil": "linscore.distillation.distil",
    "drop": "linscore.surgery.drop",
    "export_tuned_lens": "linscore.surgery.tuned_lens",
    "find_decoder": "linscore.decoder.find",
    "fit_block_map": "linscore.statistics.maps",
    "fit_fusion": "linscore.surgery.fuse",
    "fuse": "linscore.surgery.fuse",
    "layer_loss": "linscore.regularization.taps",
    "linearity": "linscore.statistics.figures",
    "linearize": "linscore.surgery.linearize",
    "load": "linscore.models.load",
    "load_moments": "linscore.statistics.moments_file",
    "load_pretrained": "linscore.models.load",
    "losses_without": "linscore.surgery.choose",
    "rank": "linscore.scoring.ranking",
    "save_moments": "linscore.statistics.moments_file",
    "score": "linscore.scoring.score",
    "score_states": "linscore.scoring.given_states",
    "text_loss": "linscore.evaluation.perplexity",
    "watch": "linscore.scoring.watch",
}
_FORMER = ("decoders", "documents")  # modules of `former` that were loaded by any of the above
__path__.append(f"{__path__[0]}/former")
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name in _FORMER:
        return import_module(f"linscore.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'linscore' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
