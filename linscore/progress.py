"""A progress bar on standard error: tokens, tokens per second, time left."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} tokens/s")


class ScoreProgress:
    """Shown while it is entered; `total` tokens are expected (None: not known)."""

    def __init__(self, total: int | None) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} tokens"))
        self._bar = Progress(
            *(*columns, _Rate(), TimeRemainingColumn()),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # a log file wants no bar
        )
        self._task = self._bar.add_task("scoring", total=total)

    def advance(self, tokens: int) -> None:
        """Count the tokens of one batch."""
        self._bar.advance(self._task, tokens)

    def __enter__(self) -> ScoreProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
