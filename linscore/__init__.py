"""linscore: how linear each block of a transformer decoder is, streaming over millions of tokens."""

from linscore_kernels import centered_gram

from linscore.collect import Collector
from linscore.decoders import find_decoder
from linscore.distillation.training import distil
from linscore.errors import LinscoreError
from linscore.evaluation.perplexity import text_loss
from linscore.maps import FittedMap, fit_block_map
from linscore.metrics import BlockMetrics, block_metrics
from linscore.moments import Moments
from linscore.moments_file import load_moments, save_moments
from linscore.pretrained import load
from linscore.rank import rank
from linscore.report import BlockReport, Report
from linscore.score import score
from linscore.spans import Span
from linscore.surgery.choose import choose
from linscore.surgery.drop import drop
from linscore.surgery.fuse import fit_fusion, fuse
from linscore.surgery.linearize import linearize
from linscore.surgery.tuned_lens import export_tuned_lens

__all__ = [
    "BlockMetrics",
    "BlockReport",
    "Collector",
    "FittedMap",
    "LinscoreError",
    "Moments",
    "Report",
    "Span",
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
    "linearize",
    "load",
    "load_moments",
    "rank",
    "save_moments",
    "score",
    "text_loss",
]
