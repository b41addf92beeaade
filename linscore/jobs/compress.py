"""The job of `linscore compress`: from a decoder and a text to a smaller decoder under a budget."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from linscore.compression.budget import Budget
from linscore.compression.build import built
from linscore.compression.choices import Choice
from linscore.compression.heal import Healed, heal
from linscore.compression.losses_file import LOSSES, add_loss, read_losses, written
from linscore.compression.search import Step
from linscore.compression.trials import Trials
from linscore.decoder.cached import kv_bytes_per_token
from linscore.decoder.find import find_decoder
from linscore.errors import Interrupted, LinscoreError, at_least, one_of
from linscore.files.json_file import json_text, read_json
from linscore.files.run_folder import RunFolder
from linscore.files.whole import new_folder
from linscore.jobs.compress_search import Found, Texts, read_texts, search
from linscore.jobs.cut import check_finite, described, parameter_names, stand_in_path
from linscore.machine.versions import versions
from linscore.models.cost import sizes
from linscore.models.load import Pretrained, load_pretrained
from linscore.options.cut import CompressOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.spans import Unit, after, indices
from linscore.surgery.left_out import left_out_losses
from linscore.surgery.record import Record, Replacement
from linscore.surgery.save import save_checkpoint
from linscore.text.source import Text

HEALS = ("closed", "none")
RESULT = "compress.json"


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
        steps: what was taken: choice, share saved, loss on the measuring text.
        curve: the same to the end, where that was asked for.
        losses: nats per token on text that neither chose nor fitted: of the whole decoder, cut, and healed.
        tokens: that maps were fitted on, that cuts were measured on, and that losses are of.
        trials: how many cuts were measured.
        passes: how much of the decoder they ran, in whole runs over the measuring text.
        seconds: from loading to the choice.
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


@dataclass(frozen=True)
class Compressed:
    """What `linscore compress` did."""

    out: Path
    record: Record
    result: Result


def run_compress(
    model: str,
    *,
    out: str,
    wanted: CompressOptions,
    text: TextOptions | None = None,
    place: PlaceOptions | None = None,
    resume: bool = False,
    progress: Callable[[str], None] = lambda _line: None,
) -> Compressed:
    """Make `model` smaller under a budget, and save what comes of it to `out`.

    The text is dealt into four folds: maps are fitted on two, cuts are measured on the third, and losses reported of
    the last. What is measured lies in `OUT.search`, from which `resume` goes on after a kill; the other options must
    be those of the first call. A finished search leaves it in `out`, from which `wanted.measured` takes it.

    Raises:
        LinscoreError: for any input that cannot be used, and when `out` exists; what was there stays as it was.
        Interrupted: by Ctrl-C, once the best so far is saved.
    """
    budget, read, place = Budget.of(wanted), Text(text or TextOptions()), place or PlaceOptions()
    _check(wanted, read)
    settings = Settings(model=model, measure_tokens=wanted.measure_tokens, dtype=place.dtype, **asdict(read.options))
    if wanted.measured is not None:
        _check_measured(wanted.measured, settings)
    with RunFolder(Path(f"{Path(out)}.search"), settings, places=("model", "text")) as run, new_folder(out) as folder:
        if resume:
            run.resume(Settings)
        else:
            run.check_new()
        started = time.perf_counter()
        loaded = load_pretrained(model, **asdict(place))
        texts = read_texts(loaded, read, wanted.measure_tokens)
        if not resume:
            _begin(run, wanted.measured)
        with run.kept(lambda: run.path / LOSSES if (run.path / LOSSES).exists() else None):
            found = _search(run.path, loaded, texts, budget, wanted.steps, progress)
            steps, curve = ([_step(step, found.whole) for step in one] for one in (found.steps, found.curve))
            about: dict[str, Any] = {"settings": settings, "budget": budget.describe(), "steps": steps, "curve": curve}
            result = partial(Result, seconds=time.perf_counter() - started, **about)
            done = _saved(folder, loaded, texts, found, wanted.heal, result, out, progress)
            if (run.path / LOSSES).exists():
                shutil.copyfile(run.path / LOSSES, folder / LOSSES)
        shutil.rmtree(run.path)
    if found.stopped:
        raise Interrupted(
            f"interrupted: {out} holds the best so far, {found.share:.1%} saved; `measured={out}` goes on"
        )
    return done


def _begin(run: RunFolder, measured: str | None) -> None:
    """Begin a run, with what another has measured."""
    run.begin()
    if measured is not None and (Path(measured) / LOSSES).exists():
        shutil.copyfile(Path(measured) / LOSSES, run.path / LOSSES)


def _search(
    folder: Path,
    loaded: Pretrained,
    texts: Texts,
    budget: Budget,
    whole_curve: bool,
    say: Callable[[str], None],
) -> Found:
    """The search, whose losses go into `folder` as they are measured."""
    known = read_losses(folder)
    numbers = itertools.count(len(known))

    def learned(choice: Choice, loss: float) -> None:
        add_loss(folder, next(numbers), choice, loss)

    return search(loaded, texts, budget, whole_curve=whole_curve, known=known, learned=learned, say=say)


def _check(wanted: CompressOptions, read: Text) -> None:
    one_of("heal", wanted.heal, HEALS)
    at_least("measure_tokens", wanted.measure_tokens, 2)
    if not read.options.given:
        raise LinscoreError("there is no text to choose and fit on: give `text` or `dataset`")
    read.source.check_read_again()
    read.source.check()


def _check_measured(folder: str, settings: Settings) -> None:
    """Raises LinscoreError unless losses in `folder` are of the same model and text, measured alike."""
    path = Path(folder) / RESULT
    if not path.is_file():
        raise LinscoreError(f"no {RESULT} in {folder}: give what compress has saved as `measured`")
    former = read_json(path, Result, damaged="is damaged: measure again").settings
    for name, value in asdict(settings).items():
        if getattr(former, name) != value:
            raise LinscoreError(
                f"{folder} was measured with {name} {getattr(former, name)}, not {value}: give the same"
            )


def _saved(
    folder: Path,
    loaded: Pretrained,
    texts: Texts,
    found: Found,
    heals: str,
    result: Callable[..., Result],
    out: str,
    say: Callable[[str], None],
) -> Compressed:
    """Heal, build and save the choice, and measure it on text that nobody has seen."""
    table, choice, decoder = found.table, found.step.choice, loaded.decoder
    report = Trials(table.replaced, texts.report)
    losses = {"whole": report.loss, "cut": report.measure(table.measured.cut(choice)) if choice else report.loss}
    healed = Healed({unit: table.rows[unit].fitted(form) for unit, form in choice.items()})
    cut = built(loaded.model, healed)
    if heals == "closed" and choice:
        say("healing what is left")
        better = heal(decoder, table.sub_blocks, choice, texts.fit)
        whole = built(loaded.model, better)
        # What is fitted on text unlike the model's own may harm it; the text that reports is not asked.
        if left_out_losses(find_decoder(whole), texts.choose, [])[None] < found.step.loss:
            healed, cut = better, whole
        else:
            say("healing costs more on the text that chooses: left out")
    losses["healed"] = left_out_losses(find_decoder(cut), texts.report, [])[None]
    if loaded.stored is torch.float16 and cut.dtype is torch.float32:  # which a CPU has loaded so
        cut.half()
    check_finite(cut)
    save_checkpoint(folder, cut, loaded.tokenizer)
    tokens = {"fitted": texts.fitted, "measured": table.trials.tokens, "reported": report.tokens}
    done = result(losses=losses, tokens=tokens, trials=table.trials.trials, passes=table.trials.passes)
    (folder / RESULT).write_text(json_text(asdict(done), out), encoding="utf-8")
    record = _record(loaded, cut, healed, done, found.share)
    record.save(folder, becomes=out)
    return Compressed(Path(out), record, done)


def _record(loaded: Pretrained, cut: PreTrainedModel, healed: Healed, done: Result, share: float) -> Record:
    before, after_it = loaded.decoder, find_decoder(cut)
    found = sizes(before, after_it)
    with suppress(LinscoreError):  # a decoder that keeps no cache
        found["kv_bytes_per_token_before"] = kv_bytes_per_token(before)
        found["kv_bytes_per_token"] = kv_bytes_per_token(after_it)
    settings = done.settings
    return Record(
        operation="compress",
        model=loaded.name,
        replacements=_replacements(cut, healed),
        moments={
            "model": loaded.name,
            "text": str(settings.text or settings.dataset),
            "tokens": done.tokens["fitted"],
        },
        compressed={"budget": done.budget, "losses": done.losses, "saved": share, "trials": done.trials},
        versions=versions(),
        **found,
    )


def _step(step: Step, whole: float) -> dict[str, Any]:
    return {"choice": written(step.choice), "saved": step.saved / whole, "loss": step.loss}


def _replacements(cut: Any, healed: Healed) -> list[Replacement]:
    """What became of each unit, and where its output is met."""
    gone = indices(unit.span for unit, fitted in healed.maps.items() if fitted is None and not unit.part)
    found = []
    for unit, fitted in sorted(healed.maps.items()):
        index = after(unit.span.first, gone)
        if fitted is None:
            block = index if unit.part else index - 1
            found.append(Replacement(str(unit), "dropped", block if block >= 0 else None))
        else:
            names = parameter_names(cut, index, stand_in_path(cut, index, Unit(unit.span, unit.part)))
            found.append(Replacement(str(unit), "linear", index, names, described(fitted, None)))
    return found
