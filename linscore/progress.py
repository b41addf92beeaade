"""A progress bar on standard error: tokens, tokens per second, time left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} tokens/s")


class TokenProgress:
    """Shown while it is entered; `total` tokens are expected (None: not known) of what is called `what`."""

    def __init__(self, total: int | None, what: str) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} tokens"))
        self._bar = Progress(
            *(*columns, _Rate(), TimeRemainingColumn()),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # a log file wants no bar
        )
        self._task = self._bar.add_task(what, total=total)

    def advance(self, tokens: int) -> None:
        """Count the tokens of one batch."""
        self._bar.advance(self._task, tokens)

    def __enter__(self) -> TokenProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def watched(batches: Iterable[dict[str, Tensor]], total: int | None, what: str) -> Iterator[dict[str, Tensor]]:
    """The same batches, counted by a progress bar as each of them is done with."""
    with TokenProgress(total, what) as progress:
        for batch in batches:
            yield batch
            progress.advance(batch["input_ids"].numel())
