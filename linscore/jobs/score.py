"""The job of `linscore score`: from names and paths to a saved report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from linscore.embedded.shipped import EMBEDDED
from linscore.errors import LinscoreError, reason
from linscore.files.lock import alone_in
from linscore.files.parts import remove_leftovers
from linscore.files.places import within
from linscore.files.run_folder import SETTINGS, RunFolder
from linscore.jobs.plan import run_plan
from linscore.jobs.score_large import PlacedModel, check_large, load_placed, with_gradients
from linscore.jobs.score_place import Former, default_folder
from linscore.jobs.score_settings import Selection, Settings
from linscore.jobs.together import share
from linscore.machine.processes import Processes, check_single
from linscore.models.release import release
from linscore.options.place import KeepOptions, LargeOptions, PlaceOptions, SaveOptions
from linscore.options.score import ScoreOptions, SelectOptions
from linscore.options.text import TextOptions
from linscore.progress import TokenProgress
from linscore.scoring.kept import KEPT, Kept, begin, check_begin, keeping
from linscore.scoring.report import MOMENTS, REPORT, Report, ScoreWarning
from linscore.scoring.score import score_decoder
from linscore.text.source import Text
from linscore.text.tokens import OddTokens

MOST = 0.5  # of the tokens: above, the tokenizer was made for other text


def run_score(
    model: str = EMBEDDED,
    *,
    text: TextOptions | None = None,
    place: PlaceOptions | None = None,
    scoring: ScoreOptions | None = None,
    selected: SelectOptions | None = None,
    saving: SaveOptions | None = None,
    large: LargeOptions | None = None,
    keep: KeepOptions | None = None,
    resume: bool = False,
    out: str | None = None,
) -> tuple[Report, tuple[Path, Path]] | None:
    """Score `model` on a text or dataset and save the result to `out`, by default `scores/MODEL`.

    Another result of the same model on the same text is replaced there; `scores/PARENT-MODEL` is the default where a
    model of that name lies in `scores/MODEL`. `selected.collect_for` is a comma list of `COLLECT_FOR`: spans are those
    of its lengths within the blocks, fuse and fuse-output take every block and such span that does not begin with 0.

    What is collected lies in `out/scoring` meanwhile, from which `resume` goes on; other options must be the former.

    Returns:
        The report, and the paths of `report.json` and `moments.safetensors`. Several processes (torchrun) share the
        work, and the first writes; the others return None.

    Raises:
        LinscoreError: for input that cannot be used, where another process works in `out`, or it holds the result of
            another model or text, or an interrupted run, and `saving.overwrite` is not set; what was there stays.
        Interrupted: by Ctrl-C, where there is a run to go on with.
    """
    place, scoring, selected = place or PlaceOptions(), scoring or ScoreOptions(), selected or SelectOptions()
    read, overwrite = Text(text or TextOptions(), "text", selected.skip_shards), saving is not None and saving.overwrite
    chosen, large = Selection(selected), large or LargeOptions()
    read.source.check()
    processes = share(place, read.source)
    load = partial(_load, model, read.options, place, scoring, selected, large, processes)
    if not processes.first:
        _scored(load(), read, scoring, chosen, None, processes)
        return None
    settings = Settings.of(model, read.options, place, scoring, selected)
    with (
        alone_in(out or default_folder(model)) as folder,
        RunFolder(folder / KEPT, settings, places=("model", "text")) as run,
    ):
        placed = _begun(run, model, str(read), load, resume=resume, overwrite=overwrite)
        with keeping(run, keep) as kept:
            report = _scored(placed, read, scoring, chosen, kept, processes)
            paths = report.save(folder)
        remove_leftovers(folder, REPORT, MOMENTS)
    return report, paths


def run_scores(
    models: Sequence[str],
    *,
    out: str | None = None,
    text: TextOptions | None = None,
    resume: bool = False,
    **asked: Any,
) -> Iterator[tuple[Report, tuple[Path, Path]]]:
    """Score several models one after the other, each as `run_score` has it, into a folder of its own in `out`.

    Args:
        models: names and folders.
        out: by default `scores`.
        text: what all are scored on.
        resume: go on with those that were interrupted; the others are begun.
        asked: the other options of `run_score`.

    Yields:
        What `run_score` returns of each model that could be scored.

    Raises:
        LinscoreError: at the end, where some could not.
    """
    check_single("score of several models", "give one, or start it without torchrun")
    Text(text or TextOptions()).source.check_read_again(" to score several models")
    failed: dict[str, Exception] = {}
    for model in models:
        folder = default_folder(model) if out is None else default_folder(model, out)
        begun = (folder / KEPT / SETTINGS).exists()
        try:
            found = run_score(model, out=str(folder), text=text, resume=resume and begun, **asked)
        except Exception as error:
            failed[model] = error
        else:
            assert found is not None  # of the only process
            yield found
        release()
    if failed:
        said = (
            str(one) if isinstance(one, LinscoreError) else f"{type(one).__name__}: {reason(one)}"
            for one in failed.values()
        )
        lines = "; ".join(f"{model}: {line}" for model, line in zip(failed, said, strict=True))
        raise LinscoreError(f"{len(failed)} of {len(models)} models were not scored: {lines}") from next(
            iter(failed.values())
        )


def _begun(
    run: RunFolder, model: str, text: str, load: Callable[[], PlacedModel], *, resume: bool, overwrite: bool
) -> PlacedModel:
    """The model, once nothing stands in the way of a run that is begun, or gone on with, in its folder."""
    former = None if overwrite else Former(run.path.parent)
    if former is not None:
        former.check_names(model, text)
    if resume:
        run.resume(Settings)
    else:
        check_begin(run, anew=overwrite)
    placed = load()
    if former is not None:
        former.check_weights(placed.loaded.decoder, model)
    if not resume:
        begin(run)
    return placed


def _load(
    model: str,
    text: TextOptions,
    place: PlaceOptions,
    scoring: ScoreOptions,
    selected: SelectOptions,
    large: LargeOptions,
    processes: Processes,
) -> PlacedModel:
    """The model, where it fits, or as each of several processes has it; whole, where gradients come through it."""
    check_large(large)
    if scoring.sensitivity is not None:
        large = with_gradients(large)
    asked: dict[str, Any] = {"text": text, "place": place, "scoring": scoring, "selected": selected, "large": large}
    plan = partial(run_plan, model, timed=False, **asked)
    return load_placed(model, place, large, plan, scoring, processes=processes)


def _scored(
    placed: PlacedModel,
    read: Text,
    scoring: ScoreOptions,
    chosen: Selection,
    kept: Kept | None,
    processes: Processes,
) -> Report:
    """The report, with the doubts about the text among its warnings."""
    loaded, streamed = placed
    doubts: list[str] = []
    odd = OddTokens(loaded.tokenizer)
    reader = (loaded.tokenizer, loaded.context, loaded.model.device)
    batches = odd.watch(read.batches(*reader, folds=scoring.folds, say=doubts.append))
    special = loaded.tokenizer.all_special_ids if chosen.skip_special else ()
    options = chosen.among(len(loaded.decoder.blocks), replace(scoring, skip_tokens=special))
    with TokenProgress(read.expected_tokens(loaded.tokenizer), "scoring") as progress:
        about: dict[str, Any] = {"name": loaded.name, "text": str(read), "progress": progress.advance}
        about |= {"kept": kept, "processes": processes, "streamed": streamed}
        report = score_decoder(loaded.decoder, batches, options, **about)
    doubts = [within(line, str(read)) for line in doubts]  # they go where others see them
    if odd.share > MOST:
        doubts.append(f"{odd.share:.0%} of the tokens are unknown or single bytes: another model's text or tokenizer")
    return replace(report, warnings=[*report.warnings, *(ScoreWarning("text", line) for line in doubts)])
