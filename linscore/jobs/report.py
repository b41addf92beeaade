"""The job of `linscore report`: what folders of results hold, as tables or as one page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import RenderableType

from linscore.dynamics.folder import SERIES
from linscore.dynamics.series import Dynamics
from linscore.dynamics.table import dynamics_table
from linscore.errors import LinscoreError
from linscore.files.json_file import json_text
from linscore.files.whole import whole_file
from linscore.jobs.report_cut import SavedCut
from linscore.lens.result import LENS, Lens
from linscore.lens.table import lens_table
from linscore.scoring.on_page import check_page, page_of
from linscore.scoring.report import REPORT, Report
from linscore.scoring.table import score_table
from linscore.surgery.record import RECORD
from linscore.token_errors.result import TOKENS, TokenErrors
from linscore.token_errors.table import token_table

Result = Report | Dynamics | TokenErrors | Lens | SavedCut

PAGE = "report.html"
READ: dict[str, Callable[[Path], Result]] = {
    REPORT: Report.load,
    SERIES: Dynamics.load,
    TOKENS: TokenErrors.load,
    LENS: Lens.load,
    RECORD: SavedCut.load,
}


def run_report(folders: Sequence[str | Path]) -> Iterator[RenderableType]:
    """The table of every result in `folders`, in their order.

    Raises:
        LinscoreError: for a folder that holds no result of linscore, and no model that it has cut.
    """
    for _, result in _results(folders):
        yield _table(result)


def json_of(folders: Sequence[str | Path]) -> str:
    """The JSON forms of every result in `folders`, as a list. Raises LinscoreError as `run_report`."""
    return json_text([result.to_dict() for _, result in _results(folders)])


def write_page(folders: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write one page of every result in `folders`, by default `report.html` in the first, and say where.

    Raises:
        LinscoreError: as `run_report`; where `out` is a folder; or without the packages that a page takes.
    """
    check_page()
    path = Path(folders[0]) / PAGE if out is None else Path(out)
    if path.is_dir():
        raise LinscoreError(f"{path} is a folder: give the name of a file as `out`")
    return save_page(list(_results(folders)), path)


def save_page(results: Sequence[tuple[Path, Result]], path: Path) -> Path:
    """Write the page of results, each with the folder that names it."""
    text = page_of(
        [one for _, one in results if isinstance(one, Report)],
        {str(folder): one.to_dict() for folder, one in results if isinstance(one, Dynamics)},
        [one.to_dict() for _, one in results if isinstance(one, TokenErrors)],
        [one.to_dict() for _, one in results if isinstance(one, Lens)],
        {str(folder): one.to_dict() for folder, one in results if isinstance(one, SavedCut)},
        folders=[str(folder) for folder, one in results if isinstance(one, Report)],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def _table(result: Result) -> RenderableType:
    if isinstance(result, Report):
        return score_table(result)
    if isinstance(result, Dynamics):
        return dynamics_table(result)
    if isinstance(result, SavedCut):
        return result.table()
    return token_table(result) if isinstance(result, TokenErrors) else lens_table(result)


def _results(folders: Sequence[str | Path]) -> Iterator[tuple[Path, Result]]:
    """Everything that each folder holds."""
    for folder in map(Path, folders):
        found = [name for name in READ if (folder / name).is_file()]
        if not found:
            raise LinscoreError(f"{folder} holds none of {', '.join(READ)}: give a folder that linscore has written")
        yield from ((folder, READ[name](folder / name)) for name in found)
