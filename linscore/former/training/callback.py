"""Moved: take the name from `linscore` itself."""

from linscore.dynamics.callback import LinearityCallback

__all__ = ["LinearityCallback"]
