"""The job of `linscore dynamics`: a series of checkpoints, scored one after the other on the same tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from linscore.dynamics.checkpoints import checkpoint_series, modified
from linscore.dynamics.folder import SERIES, DynamicsFolder
from linscore.dynamics.series import Checkpoint, Dynamics, ScoredCheckpoint
from linscore.errors import Interrupted, LinscoreError
from linscore.files.lock import alone_in
from linscore.files.parts import remove_leftovers
from linscore.files.places import read_places
from linscore.files.run_folder import difference
from linscore.jobs.together import share
from linscore.machine.processes import Processes
from linscore.models.load import Pretrained, load_pretrained
from linscore.models.release import release
from linscore.options.place import PlaceOptions
from linscore.options.score import ScoreOptions
from linscore.options.text import TextOptions
from linscore.progress import TokenProgress
from linscore.scoring.report import Report
from linscore.scoring.score import score_decoder
from linscore.text.batch import TokenDigest
from linscore.text.source import Text

__all__ = ["run_dynamics"]


def run_dynamics(
    checkpoints: Sequence[str],
    *,
    revisions: str | None = None,
    text: TextOptions | None = None,
    place: PlaceOptions | None = None,
    out: str,
) -> Dynamics | None:
    """Score a series of checkpoints (see `checkpoint_series`) on the same tokens.

    What `out` holds of the same series already is not scored again: after an interruption, or with more checkpoints,
    the command is simply repeated. Spectra are left out of the reports.

    Returns:
        Everything that `out` then holds: what was there and not asked for now, then `checkpoints` as given. Several
        processes (torchrun) share each score, and the first writes; the others return None.

    Raises:
        LinscoreError: for any input that cannot be used, or a checkpoint that differs from the first in vocabulary,
            depth, width or tokens; or when another process works on `out`. What was scored before stays there.
        Interrupted: by Ctrl-C; what is done is kept.
    """
    series = checkpoint_series(checkpoints, revisions)
    text, place = text or TextOptions(), place or PlaceOptions()
    read = Text(text)
    read.source.check()
    if len(series) > 1:
        read.source.check_read_again(" to score several checkpoints")
    processes = share(place, read.source)
    job = _Job(Path(out), read, place, processes)
    if not processes.first:
        job.score_all(series)
        return None
    with alone_in(out):
        job.resume(series)
        try:
            job.score_all(series)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted, {out} keeps the checkpoints that are done: repeat the command") from None
        return job.finish(series)


class _Job:
    """The folder of a series, what it holds so far, and how a checkpoint is scored."""

    def __init__(self, out: Path, text: Text, place: PlaceOptions, processes: Processes) -> None:
        self.out, self.text, self.place, self.processes = out, text, place, processes
        settings = asdict(text.options) | {"dtype": place.dtype, "device": place.device}
        self.settings: dict[str, Any] = read_places(settings, out)  # spelled as they will be read again
        self.folder = DynamicsFolder(out)
        self.dynamics: Dynamics | None = None

    def resume(self, series: Sequence[Checkpoint]) -> None:
        """Read what the folder holds of the series.

        Raises:
            LinscoreError: when it holds something else.
        """
        self.dynamics = self.folder.load()
        if self.dynamics is not None:
            other = difference(self.dynamics.settings, self.settings)
            if other is not None:
                begun = f"the series in {self.out} was scored with {other}"
                raise LinscoreError(f"{begun}: give the same, or another `out`")
        elif foreign := [path.name for path in self.out.iterdir() if not path.name.startswith(".")]:
            raise LinscoreError(f"{self.out} holds {foreign[0]} but no {SERIES}: give another `out`, a new folder")
        for checkpoint in series:
            self._check_place(checkpoint)
        remove_leftovers(self.out)

    def score_all(self, series: Sequence[Checkpoint]) -> None:
        """Score the checkpoints that the first process does not have."""
        before = [] if self.dynamics is None else self.dynamics.scored
        known = {one.checkpoint for one in before if self.folder.report(one.checkpoint.step).is_file()}
        for checkpoint in self.processes.from_first([one for one in series if one not in known]):
            self.score(checkpoint)

    def score(self, checkpoint: Checkpoint) -> None:
        """Score one checkpoint; the first process saves the longer series."""
        when = modified(checkpoint)
        longer, report = self._scored(checkpoint)
        if self.processes.first:
            _check_tokens(checkpoint, longer, self.dynamics)
            before = [] if self.dynamics is None else self.dynamics.scored
            others = [one for one in before if one.checkpoint != checkpoint]
            self.dynamics = replace(longer, scored=[*others, ScoredCheckpoint.of(checkpoint, when, report)])
            self.folder.write(self.dynamics)
            self.folder.write_report(checkpoint.step, report)
        release()

    def finish(self, series: Sequence[Checkpoint]) -> Dynamics:
        """Put the series in order, and draw it."""
        assert self.dynamics is not None  # a series has a checkpoint
        place = {checkpoint: number for number, checkpoint in enumerate(series)}
        scored = sorted(self.dynamics.scored, key=lambda one: place.get(one.checkpoint, -1))
        dynamics = replace(self.dynamics, scored=scored)
        self.folder.write(dynamics)
        self.folder.draw(dynamics)
        return dynamics

    def _scored(self, checkpoint: Checkpoint) -> tuple[Dynamics, Report]:
        """The report, and what a series with nothing in it would say beside it."""
        loaded = load_pretrained(checkpoint.name, **asdict(self.place), revision=checkpoint.revision)
        vocabulary = _vocabulary_digest(loaded.tokenizer)
        _check_model(checkpoint, loaded, vocabulary, self.dynamics)
        report, digest = self._pass(checkpoint, loaded)
        series = Dynamics(
            scored=[],
            text=str(self.text),
            tokens=report.tokens + report.nonfinite_rows,
            token_digest=digest,
            vocabulary_digest=vocabulary,
            depth=report.depth,
            width=report.width,
            settings=self.settings,
            versions=report.versions,
        )
        return series, report

    def _pass(self, checkpoint: Checkpoint, loaded: Pretrained) -> tuple[Report, str]:
        """The report, and the digest of the tokens that were scored."""
        digest = TokenDigest()
        batches = self.text.batches(loaded.tokenizer, loaded.context, loaded.model.device)
        with TokenProgress(self.text.expected_tokens(loaded.tokenizer), f"step {checkpoint.step:,}") as progress:
            report = score_decoder(
                loaded.decoder,
                digest.watch(batches),
                ScoreOptions(),
                processes=self.processes,
                spectra=False,
                name=str(checkpoint),
                text=str(self.text),
                progress=progress.advance,
            )
        return report, str(digest)

    def _check_place(self, checkpoint: Checkpoint) -> None:
        """Whether the folder of a step is free, or holds this checkpoint as it is now."""
        known = {} if self.dynamics is None else {one.checkpoint.step: one for one in self.dynamics.scored}
        folder, there = self.folder.report(checkpoint.step).parent, known.get(checkpoint.step)
        if there is None and folder.exists():
            raise LinscoreError(f"{folder} exists, but {SERIES} does not list it: move it, or give another `out`")
        if there is not None and there.checkpoint != checkpoint:
            raise LinscoreError(
                f"step {checkpoint.step} of the series in {self.out} is {there.checkpoint}, not {checkpoint}: give "
                "another `out`"
            )
        if there is not None and there.modified != modified(checkpoint):
            raise LinscoreError(f"the weights of {checkpoint} changed since it was scored: give another `out`")


def _check_model(checkpoint: Checkpoint, loaded: Pretrained, vocabulary: str, series: Dynamics | None) -> None:
    if series is None:
        return
    decoder, first = loaded.decoder, series.scored[0].checkpoint
    sizes = {"depth": (len(decoder.blocks), series.depth), "width": (decoder.width, series.width)}
    for what, (found, before) in sizes.items():
        if found != before:
            raise LinscoreError(f"{checkpoint} has {what} {found}, {first} {before}: give checkpoints of one model")
    if vocabulary != series.vocabulary_digest:
        raise LinscoreError(f"{checkpoint} has another vocabulary than {first}: give checkpoints of one model")


def _check_tokens(checkpoint: Checkpoint, found: Dynamics, series: Dynamics | None) -> None:
    if series is not None and found.token_digest != series.token_digest:
        raise LinscoreError(
            f"{checkpoint} was given other tokens than {series.scored[0].checkpoint}: the text has changed, or their "
            "tokenizers or contexts differ; give `seq_len`, or another `out`"
        )


def _vocabulary_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
