"""How weights are trained, and towards what."""

from __future__ import annotations

from dataclasses import dataclass

from linscore.options.field import option
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How weights are trained."""

    steps: int | None = option(None, "Updates.", "N")
    learning_rate: float | None = option(None, "Its peak.", "R")
    seed: int | None = option(None, "Of everything that is random.", "N")
    save_every: int | None = option(None, "Steps between checkpoints.", "N")


@dataclass(frozen=True, kw_only=True)
class DistilOptions:
    """What a cut model is trained towards, and which losses count."""

    teacher: str | None = option(None, "The original [default: the model that STUDENT was cut from].", "MODEL")
    train: str = option("replacements", "replacements, or all weights.")
    hidden: float = option(1.0, "Weight of the states' error.", "W")
    kl: float = option(1.0, "Weight of the logits' divergence.", "W")
    lm: float = option(0.0, "Weight of the next token's loss.", "W")


@dataclass(frozen=True, kw_only=True)
class RegularizerOptions:
    """What keeps blocks close to the identity, or to linear maps, while a decoder is trained."""

    regularizer: str | None = option(None, "Between consecutive states: none, mse or cosine.", "KIND")
    weight: float | None = option(None, "Of the regularizer.", "λ")


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """What a head is fine-tuned for, and how often."""

    task: str = option("classification", "classification, or reward for pairs.")
    chosen_field: str = option("chosen", "Of a pair, the column of the better text.")
    rejected_field: str = option("rejected", "Of a pair, the column of the other.")
    seeds: int = option(3, "How many fine-tunings.", "N")
    epochs: int = option(3, "Passes over the examples.", "N")
    longest: int | None = option(None, "Tokens of a text, the last ones [the context, at most 512].", "L")
    score_text: str | None = option(None, "Text to score on [the texts of the data].", "PATH")


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """What a probe reads."""

    pool: str = option("last", "last: the last token's state; mean: of all tokens.")


DISTIL_TEXT = TextOptions(batch_size=8)
DISTIL_TRAINING = TrainingOptions(steps=500, save_every=100)
DISTIL_PLACE = PlaceOptions(dtype="float32")  # the teacher's; the student trains in float32
FINETUNE_TEXT = TextOptions(tokens=100_000, batch_size=16)
PROBE_TRAINING = TrainingOptions(seed=0)
