"""How long a decoder takes on this machine: a prompt read, or a token added to one that is in its cache."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch

from linscore.decoder.cached import cache_name
from linscore.decoder.find import Decoder, token_embedding
from linscore.errors import LinscoreError

Kind = Literal["prefill", "decode"]
TEXT = "decode:1x512"


@dataclass(frozen=True)
class Workload:
    """What is timed.

    Attributes:
        kind: "prefill" reads a prompt, "decode" adds one token to a prompt that is in the cache.
        batch: sequences at once.
        tokens: of a prompt.
    """

    kind: Kind
    batch: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.batch}x{self.tokens}"

    @staticmethod
    def parse(text: str) -> Workload:
        """Read "prefill:1x512", "decode:8x1024". Raises LinscoreError for anything else, as `latency_of`."""
        match = re.fullmatch(r"(prefill|decode)(?::([1-9]\d{0,5})x([1-9]\d{0,6}))?", text)
        if match is None:
            raise LinscoreError(f"`latency_of={text}` is unknown: write prefill or decode, with BATCHxTOKENS {TEXT}")
        batch, tokens = (match[2], match[3]) if match[2] else TEXT.partition(":")[2].split("x")
        return Workload(cast("Kind", match[1]), int(batch), int(tokens))


def call_of(decoder: Decoder, workload: Workload) -> Callable[[], None]:
    """A call that does the work once on random tokens, without gradients.

    Raises:
        LinscoreError: for a prompt beyond the decoder's context, or where it decodes without a cache.
    """
    if decoder.positions is not None and workload.tokens >= decoder.positions:
        raise LinscoreError(
            f"`latency_of={workload}`: {decoder.name} has {decoder.positions} positions, give fewer tokens"
        )
    model: Any = decoder.model
    embedding, known = token_embedding(decoder.backbone), inspect.signature(model.forward).parameters
    assert embedding is not None
    ids = torch.randint(embedding.num_embeddings, (workload.batch, workload.tokens), generator=torch.Generator())
    ids = ids.to(embedding.weight.device)
    last = {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    @torch.no_grad()
    def prefill() -> Any:
        return model(ids, use_cache="use_cache" in known, **last)

    if workload.kind == "prefill":
        return prefill
    name = cache_name(model)
    cache: Any = None if name is None else getattr(prefill(), name, None)
    if name is None or not hasattr(cache, "crop"):
        raise LinscoreError(f"{decoder.name} keeps no cache that can be cut: time its prefill")
    token = ids[:, -1:]

    @torch.no_grad()
    def decode() -> None:
        model(token, use_cache=True, **{name: cache})
        cache.crop(-1)  # each call adds to the same prompt

    return decode
