"""The job of `linscore compress`: from a decoder and a text to a smaller decoder under a budget."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from linscore.compression.budget import Budget
from linscore.compression.choices import Choice
from linscore.compression.latency import Latency, unit_latency
from linscore.compression.losses_file import LOSSES, add_loss, read_losses, written
from linscore.compression.search import Step
from linscore.errors import Interrupted, LinscoreError, at_least
from linscore.files.json_file import json_text, read_json
from linscore.files.run_folder import RunFolder
from linscore.files.whole import new_folder
from linscore.jobs.compress_figures import figures_table, named_figure
from linscore.jobs.compress_heal import heal_cut, heal_steps
from linscore.jobs.compress_saved import Compressed, Result, Settings, save_found
from linscore.jobs.compress_search import Found, Table, from_measured, search
from linscore.jobs.compress_texts import Texts, read_texts
from linscore.machine.extras import need
from linscore.models.load import Pretrained, load_pretrained
from linscore.options.cut import CompressOptions, CutOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.surgery.record import RESULT
from linscore.text.source import Text

LATENCY = "latency.json"  # in the folder of a run

__all__ = ["RESULT", "Compressed", "Result", "run_compress"]


def run_compress(
    model: str,
    *,
    out: str,
    wanted: CompressOptions,
    cut: CutOptions | None = None,
    text: TextOptions | None = None,
    place: PlaceOptions | None = None,
    resume: bool = False,
    progress: Callable[[str], None] = lambda _line: None,
) -> Compressed:
    """Make `model` smaller under a budget, and save what comes of it to `out`.

    The text is dealt into four folds: maps are fitted on two, cuts are measured on the third, and losses reported of
    the last. What is measured lies in `OUT.search`, from which `resume` goes on after a kill; the other options must
    be those of the first call. A finished search leaves it in `out`, from which `wanted.measured` takes it.

    By a figure (`cut.by`, or `cut.moments` of a score) no cut is measured; then the text may be left out, and
    with it healing and the losses.

    Raises:
        LinscoreError: for any input that cannot be used, and when `out` exists; what was there stays as it was.
        Interrupted: by Ctrl-C, once the best so far is saved.
    """
    budget, read, place = Budget.of(wanted), Text(text or TextOptions()), place or PlaceOptions()
    cut = cut or CutOptions()
    by = _check(wanted, cut, budget, read)
    settings = Settings(model=model, measure_tokens=wanted.measure_tokens, dtype=place.dtype, **asdict(read.options))
    drawn = wanted.measured is not None and _check_measured(wanted.measured, settings)
    with RunFolder(Path(f"{Path(out)}.search"), settings, places=("model", "text")) as run, new_folder(out) as folder:
        if resume:
            run.resume(Settings)
        else:
            run.check_new()
        started = time.perf_counter()
        loaded = load_pretrained(model, **asdict(place))
        texts = read_texts(loaded, read, wanted.measure_tokens) if read.options.given else None
        if not resume:
            _begin(run, wanted.measured)
        with run.kept(lambda: run.path / LOSSES if (run.path / LOSSES).exists() else None):
            table = _table(run.path, loaded, texts, cut.moments, by, progress)
            found = _found(run.path, loaded, table, budget, wanted, drawn, progress)
            result = partial(_result, settings, budget, by, time.perf_counter() - started)
            best = heal_cut(loaded, texts, found, wanted.heal, progress)
            done = save_found(folder, loaded, texts, found.ending_with(best.step), best, result, out)
            if (run.path / LOSSES).exists():
                shutil.copyfile(run.path / LOSSES, folder / LOSSES)
        shutil.rmtree(run.path)
    _say_interrupted(out, found, best.interrupted)
    return done


def _result(
    settings: Settings, budget: Budget, by: str | None, seconds: float, found: Found, **measured: Any
) -> Result:
    steps, curve = ([_step(step, found.whole) for step in one] for one in (found.steps, found.curve))
    about: dict[str, Any] = {"settings": settings, "budget": budget.describe(), "steps": steps, "curve": curve}
    return Result(**about, by=by, seconds=seconds, **measured)


def _found(
    folder: Path,
    loaded: Pretrained,
    table: Table,
    budget: Budget,
    wanted: CompressOptions,
    drawn: bool,
    say: Callable[[str], None],
) -> Found:
    """The choice; where a curve was `drawn` before, it is the best of its points that meets the budget."""
    latency = _latency(folder, loaded, table, budget, say)
    found = from_measured(loaded, table, budget, read_losses(folder), latency) if drawn else None
    heals = wanted.heal != "none"
    return found or search(loaded, table, budget, latency=latency, whole_curve=wanted.steps, heals=heals, say=say)


def _latency(
    folder: Path, loaded: Pretrained, table: Table, budget: Budget, say: Callable[[str], None]
) -> Latency | None:
    """What units save of the time, where that is bounded: measured once a run, so that one gone on with goes there."""
    if budget.workload is None:
        return None
    path = folder / LATENCY
    if not path.exists():
        found = unit_latency(loaded.decoder, table.rows, budget.workload, say)
        path.write_text(json_text(asdict(found)), encoding="utf-8")
    former = read_json(path, Latency, damaged="is damaged: remove it")
    if former.workload != str(budget.workload):
        raise LinscoreError(f"{folder} was begun with `latency_of={former.workload}`: give the same, or another `out`")
    return former


def _say_interrupted(out: str, found: Found, unhealed: bool) -> None:
    """Raises Interrupted where Ctrl-C came, once something is saved."""
    if found.stopped:
        raise Interrupted(
            f"interrupted: {out} holds the best so far, {found.share:.1%} saved; `measured={out}` goes on"
        )
    if unhealed:
        raise Interrupted(
            f"interrupted: {out} holds the cut, not healed to the end; `measured={out}` heals it without another search"
        )


def _begin(run: RunFolder, measured: str | None) -> None:
    """Begin a run, with what another has measured."""
    run.begin()
    if measured is not None and (Path(measured) / LOSSES).exists():
        shutil.copyfile(Path(measured) / LOSSES, run.path / LOSSES)


def _table(
    folder: Path,
    loaded: Pretrained,
    texts: Texts | None,
    moments: str | None,
    by: str | None,
    say: Callable[[str], None],
) -> Table:
    """What is chosen from; losses go into `folder` as they are measured."""
    if by is not None:
        return figures_table(loaded, texts, moments, by, say)
    assert texts is not None
    known = read_losses(folder)
    numbers = itertools.count(len(known))

    def learned(choice: Choice, loss: float) -> None:
        add_loss(folder, next(numbers), choice, loss)

    return Table.measured(loaded, texts, known, learned, say)


def _check(wanted: CompressOptions, cut: CutOptions, budget: Budget, read: Text) -> str | None:
    """Everything that can be wrong before a model is loaded; the figure that is to choose, in full."""
    at_least("measure_tokens", wanted.measure_tokens, 2)
    steps, by = heal_steps(wanted.heal), named_figure(cut, budget, wanted.measured)
    if read.options.given:
        read.source.check_read_again()
        read.source.check()
    elif cut.moments is None:
        raise LinscoreError("there is no text to choose and fit on: give `text` or `dataset`")
    if steps is not None:
        need("train", "healing by steps", "accelerate")
        if not read.options.given:
            raise LinscoreError("there is no text to heal on: give `text` or `dataset`")
    return by


def _check_measured(folder: str, settings: Settings) -> bool:
    """Whether a whole curve was measured there.

    Raises:
        LinscoreError: unless losses in `folder` are of the same model and text, measured alike.
    """
    path = Path(folder) / RESULT
    if not path.is_file():
        raise LinscoreError(f"no {RESULT} in {folder}: give what compress has saved as `measured`")
    result = read_json(path, Result, damaged="is damaged: measure again")
    former = result.settings
    for name, value in asdict(settings).items():
        if getattr(former, name) != value:
            raise LinscoreError(
                f"{folder} was measured with {name} {getattr(former, name)}, not {value}: give the same"
            )
    return bool(result.curve)


def _step(step: Step, whole: float) -> dict[str, Any]:
    return {"choice": written(step.choice), "saved": step.saved / whole, "loss": step.loss}
