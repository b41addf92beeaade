"""`linscore.json`: what was done to a model, written beside its weights and read again to evaluate or distil it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from linscore.errors import LinscoreError
from linscore.files.json_file import json_text, read_json
from linscore.spans import Unit
from linscore.surgery.same_cut import SameCut

RECORD = "linscore.json"
RESULT, CURVE = "compress.json", "losses.jsonl"  # what a search, and a distillation, leave beside it

Operation = Literal["drop", "linearize", "fuse", "compress"]
Form = Literal["dropped", "linear", "fused"]


@dataclass(frozen=True)
class Replacement:
    """What became of one span of the original model's blocks, or of the attention or MLP of one."""

    span: str  # "3", "3-5" or "3.mlp", see `Unit`
    form: Form
    block: int | None  # block of the cut model whose output stands for what left the span; None: its embeddings
    parameters: list[str] = field(default_factory=list)  # of the cut model, that stand for the span
    fit: dict[str, Any] | None = None  # how its map was fitted, with which errors
    reason: str | None = None  # why it has this form, where another was tried first

    def __post_init__(self) -> None:
        Unit.parse(self.span)

    def summary(self) -> str:
        """One line for people."""
        parts = [f"{self.form:<8} {_label(self.span)}"]
        if self.fit is not None:
            parts += _fit_parts(self.fit)
        if self.reason is not None:
            parts.append(self.reason)
        return ", ".join(parts)

    @property
    def stands_for(self) -> int:
        """The block of the original whose output that of `block` is to match."""
        return Unit.parse(self.span).span.last


def _label(span: str) -> str:
    return f"block{'s' * ('-' in span or ',' in span)} {span}"


def _read(fit: dict[str, Any]) -> str:
    """What a map reads: shares of what is missed compare only between maps that read the same."""
    return f"the {fit['on']} of the MLP before" if "on" in fit else "the state that entered"


def _fit_parts(fit: dict[str, Any]) -> list[str]:
    """What a map is, and what it misses."""
    parts = [f"rank {fit['rank']}" if fit.get("kind") == "low-rank" else f"{fit.get('kind') or 'on the ' + fit['on']}"]
    if fit["ridge"] is not None:
        parts.append(f"ridge {fit['ridge']:.1e}")
    missed = fit["error"] if fit["error_heldout"] is None else fit["error_heldout"]
    if missed is not None:
        where = "" if fit["error_heldout"] is None else " (held out)"
        parts.append(f"misses {missed:.1%} of the variance of what was added{where}, as read off {_read(fit)}")
    return parts


def _expected(choice: dict[str, Any], operation: Operation) -> str:
    """What the choice says of the cost."""
    whole, scored = choice.get("whole"), choice["scored"]
    if whole is None:
        return f"a cost that is not known: {choice['by']} measures none, perplexity on a text does"
    *before, last = choice["figures"].values()
    told = f"perplexity {whole:.4f} on {scored['tokens']:,} tokens of {scored['text']}"
    if before and not choice["sequential"]:
        return f"a cost that is not known: each was measured alone ({told} with none of them left out)"
    return f"{told} to become {last:.4f}" + ("" if operation == "drop" else ", or less where the maps help")


@dataclass(frozen=True)
class Record:
    """The content of `linscore.json`.

    Examples:
        >>> record = linscore.Record("drop", "embedded", [], 10, 8, 2_942_240, 2_419_360, 5_273_600, 4_218_880)
        >>> print(record.summary())
        left     8 of 10 blocks, 2,419,360 of 2,942,240 parameters, 4,218,880 of 5,273,600 FLOP a token in blocks
    """

    operation: Operation
    model: str  # Hub name or folder of the original
    replacements: list[Replacement]
    depth_before: int
    depth: int
    parameters_before: int
    parameters: int
    flops_per_token_before: int  # of all blocks (see `block_costs`)
    flops_per_token: int
    kv_bytes_per_token_before: int | None = None  # of keys and values in a cache; None: not counted
    kv_bytes_per_token: int | None = None
    choice: dict[str, Any] | None = None  # how the blocks were chosen; None: named by hand
    moments: dict[str, Any] | None = None  # model, text and tokens that the maps were fitted on
    compressed: dict[str, Any] | None = None  # budget, losses, and how many trials it took
    distilled: dict[str, Any] | None = None  # what training did afterwards
    same_cut: SameCut | None = None  # where all that happened is that blocks went: how other tools do it
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self, folder: str | Path | None = None) -> str:
        """The text of the file in `folder`, absolute paths as they lie from there; None: as typed."""
        return json_text(asdict(self), folder)

    def save(self, folder: str | Path, becomes: str | Path | None = None) -> None:
        """Write `linscore.json` beside the weights in `folder`, which `becomes` another once it is whole."""
        text = self.to_json(folder if becomes is None else becomes)
        (Path(folder) / RECORD).write_text(text, encoding="utf-8")

    def summary(self) -> str:
        """What was done to which blocks, and what is left, a line each."""
        lines = [one.summary() for one in self.replacements]
        if self.choice is not None:
            figures = ", ".join(f"{_label(span)} ({figure:.4f})" for span, figure in self.choice["figures"].items())
            how = ", measured again after each" if self.choice["sequential"] else ""
            lines.insert(0, f"chosen   by {self.choice['by']}{how}: {figures}")
            lines.insert(1, f"expects  {_expected(self.choice, self.operation)}")
        sizes = [
            f"{self.depth} of {self.depth_before} blocks",
            f"{self.parameters:,} of {self.parameters_before:,} parameters",
            f"{self.flops_per_token:,} of {self.flops_per_token_before:,} FLOP a token in blocks",
        ]
        if self.kv_bytes_per_token_before:
            sizes.append(
                f"{self.kv_bytes_per_token:,} of {self.kv_bytes_per_token_before:,} bytes a token in its cache"
            )
        return "\n".join([*lines, f"left     {', '.join(sizes)}"])

    @staticmethod
    def load(folder: str | Path) -> Record:
        """Read the record of a saved model.

        Raises:
            LinscoreError: when there is none, or it is damaged.
        """
        path = Path(folder) / RECORD
        if not path.is_file():
            raise LinscoreError(
                f"no {RECORD} in {folder}: give a model that prune, linearize, fuse or compress has saved"
            )
        return read_json(path, Record, damaged="is damaged: cut the model again")
