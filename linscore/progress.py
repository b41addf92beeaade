"""Progress bars on standard error: what is done, how fast, time left; none where standard error is no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

AnyBar = TypeVar("AnyBar", bound="Bar")


class Bar:
    """A bar of one task, shown while it is entered; `columns` stand between the bar and the time left."""

    def __init__(self, what: str, total: int | None, *columns: ProgressColumn, **fields: Any) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            *(TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn()),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # a log file wants no bar
        )
        self._task = self._bar.add_task(what, total=total, **fields)

    def __enter__(self: AnyBar) -> AnyBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} tokens/s")


class TokenProgress(Bar):
    """Counts tokens; `total` are expected (None: not known) of what is called `what`."""

    def __init__(self, total: int | None, what: str) -> None:
        super().__init__(what, total, TextColumn("{task.completed:,.0f} tokens"), _Rate())

    def advance(self, tokens: int) -> None:
        """Count the tokens of one batch."""
        self._bar.advance(self._task, tokens)


def watched(batches: Iterable[dict[str, Tensor]], total: int | None, what: str) -> Iterator[dict[str, Tensor]]:
    """The same batches, counted by a progress bar as each of them is done with."""
    with TokenProgress(total, what) as progress:
        for batch in batches:
            yield batch
            progress.advance(batch["input_ids"].numel())
