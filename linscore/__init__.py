"""linscore: how linear each block of a transformer decoder is, streaming over millions of tokens."""

from linscore_kernels import centered_gram

from linscore.collect import Collector
from linscore.decoders import find_decoder
from linscore.distillation.training import distil
from linscore.errors import LinscoreError
from linscore.evaluation.perplexity import TextLoss, text_loss
from linscore.maps import FittedMap, fit_block_map
from linscore.metrics import BlockMetrics, block_metrics
from linscore.moments import Moments
from linscore.moments_file import load_moments, save_moments
from linscore.pretrained import load, load_pretrained
from linscore.rank import rank
from linscore.report import BlockReport, Report
from linscore.score import score
from linscore.spans import Span
from linscore.surgery.choose import Choice, choose, losses_without
from linscore.surgery.drop import drop
from linscore.surgery.fuse import Fusion, fit_fusion, fuse
from linscore.surgery.linearize import linearize
from linscore.surgery.record import Record
from linscore.surgery.tuned_lens import export_tuned_lens
from linscore.training.regularizer import LinearityRegularizer
from linscore.training.taps import layer_loss

__all__ = [
    "BlockMetrics",
    "BlockReport",
    "Choice",
    "Collector",
    "FittedMap",
    "Fusion",
    "LinearityRegularizer",
    "LinscoreError",
    "Moments",
    "Record",
    "Report",
    "Span",
    "TextLoss",
    "block_metrics",
    "centered_gram",
    "choose",
    "distil",
    "drop",
    "export_tuned_lens",
    "find_decoder",
    "fit_block_map",
    "fit_fusion",
    "fuse",
    "layer_loss",
    "linearize",
    "load",
    "load_moments",
    "load_pretrained",
    "losses_without",
    "rank",
    "save_moments",
    "score",
    "text_loss",
]
