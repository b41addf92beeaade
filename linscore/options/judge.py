"""What is asked of a judge of texts that models write, and who that is."""

from __future__ import annotations

from dataclasses import dataclass

from linscore.options.field import option
from linscore.options.training import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """What models write, and who judges it: a model at an endpoint, or a decoder that it is to be likely for."""

    endpoint: str | None = option(
        None, "An OpenAI-compatible endpoint, such as http://localhost:8000/v1; its key from LINSCORE_JUDGE_KEY.", "URL"
    )
    judge: str | None = option(None, "The model there that grades.", "NAME")
    reference: str | None = option(None, "Instead: the decoder whose perplexity of what is written counts.", "MODEL")
    stories: int = option(50, "Texts that are begun.", "N")
    begin: int = option(200, "Characters of each text that are given.", "N")
    new_tokens: int = option(128, "Tokens that are written, at most.", "N")
    temperature: float = option(1.0, "Of the sampling; 0 takes the likeliest token.", "T")


JUDGE_SAMPLING = TrainingOptions(seed=0)
