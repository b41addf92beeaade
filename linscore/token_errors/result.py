"""The errors of single tokens, as data; `tokens.json` is `TokenErrors.to_json(FOLDER)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from linscore.files.saved import Saved

TOKENS = "tokens.json"
DAMAGED = "is damaged or was not written by `linscore tokens`: run it again"


@dataclass(frozen=True)
class WorstToken:
    """A token that a block treats as no affine map does.

    Attributes:
        share: its squared error over the mean of ‖δ_c‖²; the mean over all tokens is 1 − the held-out score.
        before: text before it.
        token: itself.
        after: text behind it.
        sequence: of the text as it was read, from 0.
        position: in its sequence, from 0.
    """

    share: float
    before: str
    token: str
    after: str
    sequence: int
    position: int


@dataclass(frozen=True)
class TokenType:
    """One entry of the vocabulary: how often it came, its mean share, and its part of all that is missed."""

    token: str
    count: int
    share: float
    part: float


@dataclass(frozen=True, kw_only=True)
class BlockTokens:
    """What the held-out map of block `index` misses, token by token.

    Attributes:
        unexplained: the mean of the shares, 1 − linearity without residual, held out.
        rss: Σe² over the tokens, in the units of the residual stream squared.
        quantiles: of the shares, at .5, .9, .99 and .999, to 1.2 %.
        tail_index: Hill's α of the errors' tail; below 2 their squares have no mean to speak of.
        histogram: (log10 of a share, tokens between it and a tenth of a decade more).
        explained_by_token: share of what the block adds that its mean over the tokens of one entry of the vocabulary
            explains, held out: what any function of the token by itself can tell. None in files of before.
        tokenwise: share that an affine map of the state entering block 0 explains, held out: the token, and its place
            where the model adds one there.
        linear: the same of the state entering the block itself. What it has more than these two needs the context.
        worst: the tokens with the largest shares.
        types: those of the frequent entries of the vocabulary that are missed the most.
    """

    index: int
    unexplained: float | None
    rss: float
    quantiles: dict[str, float | None]
    tail_index: float | None
    histogram: list[tuple[float, int]]
    tokenwise: float | None
    linear: float | None
    worst: list[WorstToken]
    types: list[TokenType]
    explained_by_token: float | None = None


@dataclass(frozen=True)
class Sample:
    """The first tokens of the text, and their share in each block: `shares[block][token]`."""

    tokens: list[str]
    shares: list[list[float | None]]


@dataclass(frozen=True, kw_only=True)
class TokenErrors(Saved):
    """The errors of single tokens in every block of a model."""

    model: str
    text: str
    tokens: int
    folds: int
    depth: int
    width: int
    blocks: list[BlockTokens]
    sample: Sample
    versions: dict[str, str]

    FILE: ClassVar[str] = TOKENS
    DAMAGED: ClassVar[str] = DAMAGED
