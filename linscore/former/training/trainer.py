"""Moved: take both names from `linscore` itself."""

from linscore.regularization.trainer import LinearityRegularizerMixin, RegularizedTrainer

__all__ = ["LinearityRegularizerMixin", "RegularizedTrainer"]
