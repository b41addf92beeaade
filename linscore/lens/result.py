"""States at every depth, as data; `lens.json` is `Lens.to_json(FOLDER)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from linscore.files.saved import Saved

LENS = "lens.json"
DAMAGED = "is damaged or was not written by `linscore lens`: run it again"
Matrix = list[list[float]]


@dataclass(frozen=True, kw_only=True)
class Depth:
    """What the states at depth l, h_l, look like.

    Attributes:
        depth: l, 0 what enters block 0, L what leaves the last block.
        loss: nats a token that the next token costs by the model's final norm and head, read off here.
        loss_without_norm: the same without the norm; None for both where the head was not found.
        agrees: share of tokens for which the likeliest next token is that of the whole model.
        dimension: intrinsic, by TwoNN; None where too few points are apart.
        dimension_error: its standard error, over points drawn again.
        anisotropy: share of the largest eigenvalue of their covariance.
    """

    depth: int
    loss: float | None
    loss_without_norm: float | None
    agrees: float | None
    dimension: float | None
    dimension_error: float | None
    anisotropy: float | None


@dataclass(frozen=True)
class Predictions:
    """The first tokens of the text, and the likeliest next token read off at each depth: `tops[depth][token]`."""

    tokens: list[str]
    tops: list[list[str]]
    losses: list[list[float | None]]  # of the token that does come next


@dataclass(frozen=True, kw_only=True)
class Lens(Saved):
    """States of one sample of tokens at every depth of a model.

    Attributes:
        similarity: of any two depths, `[L + 1, L + 1]`, by its name: cka, cka_debiased, angular_distance.
        note: why there is no logit lens, where there is none.
    """

    model: str
    text: str
    tokens: int
    depths: list[Depth]
    similarity: dict[str, Matrix]
    predictions: Predictions | None
    note: str | None
    versions: dict[str, str]

    FILE: ClassVar[str] = LENS
    DAMAGED: ClassVar[str] = DAMAGED
