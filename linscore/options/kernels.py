"""What kernels are timed and tuned on."""

from __future__ import annotations

from dataclasses import dataclass

from linscore.options.field import option


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """The states that kernels are timed on."""

    width: int | None = option(None, "Features of a token [default: 768; GPU 4,096].", "D")


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """Which launch parameters are measured, for how long, and which table is rewritten."""

    widths: str | None = option(None, "Widths to tune, such as 768,2048 [all 18].", "LIST", "tune-widths")
    paths: str | None = option(None, "Of single, split, residual [all].", "LIST", "tune-paths")
    seconds: float | None = option(None, "Try no further launch after S seconds.", "S", "tune-seconds")
    file: str | None = option(None, "The table to write [the one that is installed].", "FILE", "tune-file")
