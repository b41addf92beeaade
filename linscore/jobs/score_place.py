"""Where a score goes: a folder of the model's name, and never over the result of another model or text."""

from __future__ import annotations

from pathlib import Path

from linscore.decoder.find import Decoder
from linscore.errors import LinscoreError
from linscore.files.run_folder import setting_of
from linscore.scoring.belongs import check_belongs
from linscore.scoring.kept import KEPT
from linscore.scoring.report import MOMENTS, REPORT, Report
from linscore.statistics.moments_file import check_moments

__all__ = ["Former", "default_folder"]

SCORES = "scores"


def default_folder(model: str, scores: str = SCORES) -> Path:
    """`scores/MODEL`; where that holds the result of another model, `scores/PARENT-MODEL`, and so on upwards."""
    parts = (Path(model).resolve() if Path(model).exists() else Path(model)).parts
    names = [part.strip("/\\") for part in parts if part.strip("/\\")]
    folders = [Path(scores, "-".join(names[-count:])) for count in range(1, len(names) + 1)]
    return next((folder for folder in folders if Former(folder).is_of(model)), folders[-1])


class Former:
    """What a folder holds of earlier scores, ended or not."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._unknown = folder, ""
        self._report: Report | None = None
        self._model: str | None = None  # None: there is no result
        self._begun: str | None = None  # the model of a run that was interrupted
        try:
            self._begun = setting_of(folder / KEPT, "model")
            if (folder / REPORT).exists():
                self._report = Report.load(folder)
                self._model = self._report.model
            elif (folder / MOMENTS).exists():  # of a process that was killed before the report had its name
                self._model = check_moments(folder / MOMENTS)[0].get("model", "")
        except LinscoreError as error:
            self._model, self._unknown = "", str(error)

    def is_of(self, model: str) -> bool:
        """Whether there is nothing, a result or a run of this model, or what cannot be read."""
        found = (one for one in (self._model, self._begun) if one is not None)
        return self._unknown != "" or all(_same(one, model) for one in found)

    def check_names(self, model: str, text: str) -> None:
        """Before anything is loaded.

        Raises:
            LinscoreError: for the result of another model or text, or what may be one.
        """
        if self._unknown:
            raise LinscoreError(f"{self._unknown}; give `overwrite` to replace it, or another `out`")
        if self._model is not None and not _same(self._model, model):
            raise self._refused(f"the scores of {self._model}, not of {model}")
        if self._report is not None and not _same(self._report.text or "", text):
            raise self._refused(f"the scores of {model} on {self._report.text}, not on {text}")

    def check_weights(self, decoder: Decoder, model: str) -> None:
        """Once the model is there: another one may have taken its name.

        Raises:
            LinscoreError: for the result of other weights.
        """
        if self._report is None:
            return
        try:
            check_belongs(self._report, decoder, model)
        except LinscoreError as error:
            raise self._refused(f"the scores of other weights than {model} has now") from error

    def _refused(self, what: str) -> LinscoreError:
        return LinscoreError(f"{self._folder} holds {what}: give another `out`, or `overwrite` to replace them")


def _same(one: str, other: str) -> bool:
    """Whether two names mean the same model or text here."""
    return one == other or (
        Path(one).exists() and Path(other).exists() and Path(one).resolve() == Path(other).resolve()
    )
