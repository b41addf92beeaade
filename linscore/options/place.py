"""Where a model is computed, and what becomes of results that are there."""

from __future__ import annotations

from dataclasses import dataclass

from linscore.errors import above_zero, at_least
from linscore.options.field import option


@dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """What a model is computed in, where, and whether code that it brings may run."""

    dtype: str = option("auto", "auto, float32, bfloat16 or float16.")
    device: str = option("auto", "auto, cpu, cuda, cuda:1, …")
    trust_remote_code: bool = option(False, "Run code that the model brings: read it first.")


@dataclass(frozen=True, kw_only=True)
class LargeOptions:
    """How a model is scored that is larger than its device."""

    placement: str = option("auto", "auto, whole, map (spread over devices) or stream (block by block).")
    scratch: str | None = option(None, "For stream: a folder for states and moments [default: memory].", "DIR")


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What a score is planned for."""

    devices: str | None = option(None, "Such as 8xH100, RTX4090 or cpu [default: this machine].", "[N x]CARD")


@dataclass(frozen=True, kw_only=True)
class SaveOptions:
    """What becomes of a result that is there."""

    overwrite: bool = option(False, "Replace a result of another model or text, or a run that was interrupted.")


@dataclass(frozen=True, kw_only=True)
class KeepOptions:
    """When a run that takes long is saved, so that it can be gone on with.

    Examples:
        >>> len(linscore.score(model, batches, out="kept", keep=linscore.KeepOptions(save_minutes=30)).blocks)
        6
    """

    save_minutes: float = option(10.0, "Minutes between saves of what is collected.", "N")
    save_tokens: int | None = option(None, "Tokens between saves, where that is sooner.", "N")

    def __post_init__(self) -> None:
        above_zero("save_minutes", self.save_minutes)
        at_least("save_tokens", self.save_tokens, 1)
