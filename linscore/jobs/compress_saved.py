"""What `linscore compress` saves: the choice built and healed, what it costs on text that nobody saw, the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from linscore.compression.heal import Healed
from linscore.compression.latency import timed
from linscore.compression.measured import stand_ins
from linscore.compression.trials import Replaced, Trials
from linscore.decoder.find import find_decoder
from linscore.files.json_file import json_text
from linscore.jobs.compress_heal import Best, replacements
from linscore.jobs.compress_search import Found
from linscore.jobs.compress_texts import Texts
from linscore.jobs.cut import check_finite
from linscore.machine.versions import versions
from linscore.models.cost import sizes
from linscore.models.latency import Workload
from linscore.models.load import Pretrained
from linscore.surgery.left_out import left_out_losses
from linscore.surgery.record import RESULT, Record
from linscore.surgery.save import save_checkpoint
from linscore.text.batch import read_batch


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What makes losses comparable: they are of one model on one text."""

    model: str
    text: str | None
    dataset: str | None
    tokens: int | None
    seq_len: int | None
    batch_size: int | None
    measure_tokens: int
    dtype: str


@dataclass(frozen=True)
class Result:
    """What `compress.json` holds, beside the settings.

    Attributes:
        settings: model, text and how it is measured.
        budget: what was asked for.
        steps: what was taken: choice, share saved, loss on the measuring text (the figure, where one chose).
        curve: the same to the end, where that was asked for.
        losses: nats per token on text that neither chose nor fitted: of the whole decoder, cut, and healed; none
            where no text was given.
        tokens: that maps were fitted on, that cuts were measured on, and that losses are of.
        trials: how many cuts were measured.
        passes: how much of the decoder they ran, in whole runs over the measuring text.
        seconds: from loading to the choice.
        by: the figure that chose; None: measured losses did.
        latency: seconds of what was timed, where the time is bounded: of the whole decoder, what is left by the sum of
            what units save, and of the saved model, measured.
        healed: how: closed, none, or a number of steps; as it was kept.
    """

    settings: Settings
    budget: str
    steps: list[dict[str, Any]]
    curve: list[dict[str, Any]]
    losses: dict[str, float]
    tokens: dict[str, int]
    trials: int
    passes: float
    seconds: float
    by: str | None = None
    healed: str = "closed"
    latency: dict[str, float] | None = None


@dataclass(frozen=True)
class Compressed:
    """What `linscore compress` did."""

    out: Path
    record: Record
    result: Result


def save_found(
    folder: Path,
    loaded: Pretrained,
    texts: Texts | None,
    found: Found,
    best: Best,
    result: Callable[..., Result],
    out: str,
) -> Compressed:
    """Save the choice as it was healed, measured on text that nobody has seen."""
    losses = {} if texts is None else _losses(loaded, texts, found, best.cut)
    latency = _latency(loaded, found, best.cut)
    if loaded.stored is torch.float16 and best.cut.dtype is torch.float32:  # which a CPU has loaded so
        best.cut.half()
    check_finite(best.cut)
    save_checkpoint(folder, best.cut, loaded.tokenizer)
    trials = found.table.trials
    done = result(
        found,
        losses=losses,
        tokens=_tokens(texts, trials),
        trials=0 if trials is None else trials.trials,
        passes=0.0 if trials is None else trials.passes,
        healed=best.how,
        latency=latency,
    )
    (folder / RESULT).write_text(json_text(asdict(done), out), encoding="utf-8")
    record = _record(loaded, best.cut, best.healed, done, found)
    record.save(folder, becomes=out)
    return Compressed(Path(out), record, done)


def _losses(loaded: Pretrained, texts: Texts, found: Found, cut: PreTrainedModel) -> dict[str, float]:
    """Of the whole decoder, cut, and healed, on the text that reports."""
    choice, table = found.step.choice, found.table
    report = Trials(Replaced(loaded.decoder, table.sub_blocks), texts.report)
    losses = {"whole": report.loss, "cut": report.measure(stand_ins(table.rows, choice)) if choice else report.loss}
    return losses | {"healed": left_out_losses(find_decoder(cut), texts.report, [])[None]}


def _latency(loaded: Pretrained, found: Found, cut: PreTrainedModel) -> dict[str, float] | None:
    """Of the whole decoder and of what is saved of it, timed in turns, beside the sum of what units save."""
    if found.latency is None:
        return None
    whole, left = timed(loaded.decoder, cut, Workload.parse(found.latency.workload))
    return {"whole": whole, "summed": (1 - found.share) * whole, "cut": left * whole}


def _tokens(texts: Texts | None, trials: Trials | None) -> dict[str, int]:
    """That maps were fitted on, that cuts were measured on, and that losses are of."""
    if texts is None:
        return {"measured": 0, "reported": 0}
    reported = sum(int(read_batch(batch).predicted.sum()) for batch in texts.report)
    return {"fitted": texts.fitted, "measured": 0 if trials is None else trials.tokens, "reported": reported}


def _record(loaded: Pretrained, cut: PreTrainedModel, healed: Healed, done: Result, found: Found) -> Record:
    settings = done.settings
    text = {"model": loaded.name, "text": str(settings.text or settings.dataset), "tokens": done.tokens.get("fitted")}
    about = {
        "latency": done.latency,
        "healed": done.healed,
        "budget": done.budget,
        "by": done.by,
        "losses": done.losses,
        "saved": found.share,
        "trials": done.trials,
    }
    return Record(
        operation="compress",
        model=loaded.name,
        replacements=replacements(cut, healed),
        moments=dict(found.table.origin or text),
        compressed=about,
        versions=versions(),
        **sizes(loaded.decoder, find_decoder(cut)),
    )
