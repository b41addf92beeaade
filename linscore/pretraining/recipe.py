"""A training run as a file: everything that makes it the run it is, in YAML.

model: {hidden_size: 320, num_hidden_layers: 8, …}     # any key of transformers' configuration
steps: 2000
learning_rate: 2e-3
regularizer: cosine
weight: 0.5
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from linscore.embedded.shipped import EMBEDDED
from linscore.errors import LinscoreError, above_zero, at_least, one_of, reason
from linscore.files.json_file import MisfitError, fitted, missing_keys
from linscore.files.regular import read_text

__all__ = ["CONFIGS", "REGULARIZERS", "Recipe", "read_recipe"]

CONFIGS = Path(__file__).with_name("configs")
REGULARIZERS, SCHEDULES, DTYPES = ("none", "mse", "cosine"), ("cosine", "wsd"), ("auto", "float32", "bfloat16")


MOST_BYTES = 1 << 20


class _Loader(yaml.SafeLoader):
    """YAML without aliases, a few lines of which can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*): write the value out")
        return super().compose_node(parent, index)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained, on what, and how.

    Attributes:
        model: keys of transformers' configuration; `model_type` is "mistral" where it does not say, `vocab_size` and
            `max_position_embeddings` follow the tokenizer and `seq_len`.
        steps: updates of the weights.
        learning_rate: its peak.
        tokenizer: a Hub name, a folder, "embedded", or "train": a byte-level BPE of the model's `vocab_size`, trained
            on the corpus.
        text: file or folder to train on, as `read_documents` takes it; by default Python's own standard library,
            without the modules whose text ships with linscore.
        dataset: as `read_dataset` takes it, in place of `text`.
        tokens: of the corpus, at most; of a dataset, which may have no end, no more than are read once by default.
        seq_len: tokens in a sequence; documents are packed one behind the other.
        batch_size: sequences in an update, over all processes.
        micro_batch: sequences that a process runs at a time [its share of `batch_size`]; the result is the same.
        warmup: updates until the peak; a tenth of `steps` where that is less.
        schedule: "cosine", down to 0 at the end, or "wsd": constant, then linearly to 0 over the last 35 %.
        weight_decay: of matrices.
        regularizer: "none", "mse" or "cosine" between consecutive states (see `LinearityRegularizer`).
        weight: λ of the regularizer.
        dtype: of the products; "auto" is bfloat16 on a GPU and float32 on a CPU. Weights are float32.
        seed: of weights and order.
        heldout_tokens: that are read for the held-out loss and the scores: of the text that ships with linscore, or,
            with `text` or `dataset`, of the last hundredth of the corpus.
        log_every: updates between two lines of the curve.
        save_every: updates between two checkpoints.
        score_every: updates between two held-out losses and scores of linearity.
        keep: how many checkpoints, the newest ones; null for all.
        report_to: trackers of transformers, such as tensorboard.
    """

    model: dict[str, Any]
    steps: int
    learning_rate: float
    tokenizer: str = EMBEDDED
    text: str | None = None
    dataset: str | None = None
    tokens: int | None = None
    seq_len: int = 512
    batch_size: int = 8
    micro_batch: int | None = None
    warmup: int = 200
    schedule: str = "cosine"
    weight_decay: float = 0.1
    regularizer: str = "none"
    weight: float = 0.5
    dtype: str = "auto"
    seed: int = 0
    heldout_tokens: int = 100_000
    log_every: int = 10
    save_every: int = 250
    score_every: int = 250
    keep: int | None = 2
    report_to: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(Recipe).items():
            object.__setattr__(self, name, _typed(name, getattr(self, name), kind))
        least = dict.fromkeys(("steps", "batch_size", "log_every", "save_every", "score_every"), 1)
        least |= {"micro_batch": 1, "keep": 1, "tokens": 1, "seq_len": 2, "warmup": 0, "seed": 0}
        for name, bound in (least | {"heldout_tokens": self.seq_len}).items():
            at_least(name, getattr(self, name), bound)
        for name, known in (("regularizer", REGULARIZERS), ("schedule", SCHEDULES), ("dtype", DTYPES)):
            one_of(name, getattr(self, name), known)
        above_zero("learning_rate", self.learning_rate)
        if self.weight_decay < 0:
            raise LinscoreError(f"`weight_decay` is {self.weight_decay}: give 0 or more")
        if self.seed >= 2**32:
            raise LinscoreError(f"`seed` is {self.seed}: give less than 2³²")
        key = next((key for key in self.model if not isinstance(key, str)), None)
        if key is not None:
            raise LinscoreError(f"model: {key} is no key of a configuration: give words")
        if self.text is not None and self.dataset is not None:
            raise LinscoreError("`text` and `dataset` are both given: give one")
        if self.text == "-":
            raise LinscoreError("`text` is -, which can be read only once: give a file")
        if self.text == "":
            raise LinscoreError("`text` is empty: give a file or a folder, or leave it out")

    @property
    def weights(self) -> dict[str, float]:
        """What `LinearityRegularizer` takes."""
        return {} if self.regularizer == "none" else {self.regularizer: self.weight}

    def but(self, changes: Mapping[str, Any]) -> Recipe:
        """The same with the changes that are not None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


def read_recipe(config: str | Path) -> Recipe:
    """Read a YAML (or JSON) file, or one of the configurations that ship with linscore by its name, such as "10M".

    Raises:
        LinscoreError: when there is none, or it has a key or a value that cannot be used.
    """
    shipped = CONFIGS / f"{config}.yaml"
    path = shipped if shipped.is_file() and not Path(config).is_file() else Path(config)
    if not path.is_file():
        names = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
        raise LinscoreError(f"`config={config}` is no file: give one, or one of {names}")
    try:
        content = yaml.load(read_text(path, MOST_BYTES, "give a recipe"), _Loader)
    except LinscoreError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # of dates and numbers, of nesting
        raise LinscoreError(f"{path} is no YAML ({reason(error)}): mend it") from error
    if not isinstance(content, dict):
        raise LinscoreError(f"{path} holds no settings: write lines such as steps: 1000")
    known = [f.name for f in fields(Recipe)]
    unknown, missing = [str(name) for name in content if name not in known], missing_keys(Recipe, content)
    if unknown:
        raise LinscoreError(f"{path}: {unknown[0]} is unknown: the settings are {', '.join(known)}")
    if missing:
        raise LinscoreError(f"{path}: {missing[0]} is missing: give it")
    try:
        return Recipe(**content)
    except LinscoreError as error:
        raise LinscoreError(f"{path}: {error}".replace("`", "")) from error  # keys of the file, no arguments


def _typed(name: str, value: Any, kind: Any) -> Any:
    """`value` as `kind`; YAML takes 3e-4 for a word."""
    if kind is float and isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    try:
        return fitted(kind, value, name)
    except MisfitError as error:
        raise LinscoreError(f"`{name}`{error.found.removeprefix(name)}: give {error.wanted}") from error
