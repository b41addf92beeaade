"""The folder of a series of scored checkpoints, written after each of them, so that it can be gone on with.

OUT/dynamics.json       the series so far (see `linscore.dynamics.series`)
OUT/STEP/report.json    all figures of one checkpoint; its moments are not kept
OUT/dynamics.png        the picture, or .svg
"""

from __future__ import annotations

import shutil
from pathlib import Path

from linscore.dynamics.plot import plot_dynamics
from linscore.dynamics.series import Dynamics
from linscore.files.whole import whole_file
from linscore.machine.extras import need
from linscore.pictures import file_of
from linscore.scoring.report import REPORT, Report

__all__ = ["PICTURE", "SERIES", "DynamicsFolder"]

SERIES, PICTURE = "dynamics.json", "dynamics"


class DynamicsFolder:
    """Reads and writes the series in `path`; every file is whole or not there.

    Raises:
        LinscoreError: if matplotlib is missing, which draws the series when all is scored.
    """

    def __init__(self, path: str | Path) -> None:
        need("plots", "a series of checkpoints", "matplotlib")
        self.path = Path(path)

    def load(self) -> Dynamics | None:
        """The series so far; None where there is none.

        Raises:
            LinscoreError: when it is damaged.
        """
        return Dynamics.load(self.path / SERIES) if (self.path / SERIES).exists() else None

    def report(self, step: int) -> Path:
        """Where the report of a step lies, or is to lie."""
        return self.path / str(step) / REPORT

    def write(self, dynamics: Dynamics) -> None:
        """Write the series in place of the one that is there; reports of steps that it does not list are removed."""
        before = self.load()
        self.path.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path / SERIES) as new:
            new.write_text(dynamics.to_json(self.path), encoding="utf-8")
        for step in set() if before is None else set(before.steps) - set(dynamics.steps):
            shutil.rmtree(self.report(step).parent, ignore_errors=True)

    def write_report(self, step: int, report: Report) -> None:
        """Write a step's report; after the series: a folder that the series does not list is not known as its own."""
        path = self.report(step)
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as new:
            new.write_text(report.to_json(path.parent), encoding="utf-8")

    def draw(self, dynamics: Dynamics) -> None:
        """Draw the series."""
        plot_dynamics(dynamics, self.path / file_of(PICTURE))
