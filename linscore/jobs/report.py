"""The job of `linscore report`: what folders of results hold, as tables or as one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import RenderableType

from linscore.dynamics.folder import SERIES
from linscore.dynamics.series import Dynamics
from linscore.dynamics.table import dynamics_table
from linscore.errors import LinscoreError
from linscore.files.whole import whole_file
from linscore.scoring.on_page import check_page, page_of
from linscore.scoring.report import REPORT, Report
from linscore.scoring.table import score_table

PAGE = "report.html"


def run_report(folders: Sequence[str | Path]) -> Iterator[RenderableType]:
    """The table of every result in `folders`, in their order.

    Raises:
        LinscoreError: for a folder that holds neither the result of `score` nor that of `dynamics`.
    """
    for result in _results(folders):
        yield score_table(result) if isinstance(result, Report) else dynamics_table(result)


def write_page(folders: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write one page of every result in `folders`, by default `report.html` in the first, and say where.

    Raises:
        LinscoreError: as `run_report`; where `out` is a folder; or without the packages that a page takes.
    """
    check_page()
    path = Path(folders[0]) / PAGE if out is None else Path(out)
    if path.is_dir():
        raise LinscoreError(f"{path} is a folder: give the name of a file as `out`")
    results = _results(folders)
    names = (str(folder) for folder, _ in zip(folders, results, strict=True))
    series = {name: one.to_dict() for name, one in zip(names, results, strict=True) if isinstance(one, Dynamics)}
    text = page_of([one for one in results if isinstance(one, Report)], series)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def _results(folders: Sequence[str | Path]) -> list[Report | Dynamics]:
    """What each folder holds: a report, or a series of checkpoints."""
    return [_result(Path(folder)) for folder in folders]


def _result(folder: Path) -> Report | Dynamics:
    if (folder / SERIES).is_file():
        return Dynamics.load(folder / SERIES)
    if not (folder / REPORT).is_file() and not folder.is_file():
        raise LinscoreError(f"no {REPORT} and no {SERIES} in {folder}: give what `linscore score` or `dynamics` wrote")
    return Report.load(folder)
