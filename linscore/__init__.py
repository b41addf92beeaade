"""linscore: how linear each block of a transformer decoder is, streaming over millions of tokens."""

from linscore_kernels import centered_gram

from linscore.collect import Collector
from linscore.decoders import find_decoder
from linscore.errors import LinscoreError
from linscore.maps import FittedMap, fit_block_map
from linscore.metrics import BlockMetrics, block_metrics
from linscore.moments import Moments
from linscore.moments_file import load_moments, save_moments
from linscore.rank import rank
from linscore.report import BlockReport, Report
from linscore.score import score
from linscore.surgery.drop import drop
from linscore.surgery.linearize import linearize

__all__ = [
    "BlockMetrics",
    "BlockReport",
    "Collector",
    "FittedMap",
    "LinscoreError",
    "Moments",
    "Report",
    "block_metrics",
    "centered_gram",
    "drop",
    "find_decoder",
    "fit_block_map",
    "linearize",
    "load_moments",
    "rank",
    "save_moments",
    "score",
]
