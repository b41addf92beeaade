"""Progress on standard error: what is done, how fast, time left; bars on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:  # which takes seconds to import, and something is to be said before
    from torch import Tensor

AnyBar = TypeVar("AnyBar", bound="Bar")
EVERY = 5.0  # seconds between two lines, and before the first
_SILENT = ContextVar("silent", default=False)


@contextmanager
def silence() -> Iterator[None]:
    """No lines where there is no terminal, for as long as the context lasts."""
    token = _SILENT.set(True)
    try:
        yield
    finally:
        _SILENT.reset(token)


def say(line: str) -> None:
    """One line, unless none is wanted where there is no terminal."""
    if sys.stderr.isatty() or not _SILENT.get():
        print(line, file=sys.stderr, flush=True)


class Bar:
    """A bar of one task, shown while it is entered; `columns` stand between the bar and the time left."""

    def __init__(self, what: str, total: int | None, *columns: ProgressColumn, **fields: Any) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            *(TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn()),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # a log file wants lines
        )
        self._what, self._last = what, time.monotonic()
        self._task = self._bar.add_task(what, total=total, **fields)

    def __enter__(self: AnyBar) -> AnyBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def _line(self, done: str) -> None:
        """Say how far it is where no bar shows it, unless that was said a moment ago."""
        now = time.monotonic()
        if self._bar.disable and not _SILENT.get() and now - self._last >= EVERY:
            print(f"{self._what}: {done}", file=sys.stderr, flush=True)
            self._last = now


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
        task = self._bar.tasks[0]
        of = "" if task.total is None else f" of about {task.total:,.0f}"
        rate = "" if task.speed is None else f", {task.speed:,.0f} tokens/s"
        self._line(f"{task.completed:,.0f}{of} tokens{rate}")


class CountProgress(Bar):
    """Counts what is done of `total` things."""

    def __init__(self, what: str, total: int) -> None:
        super().__init__(what, total, TextColumn("{task.completed:.0f}/{task.total}"))

    def advance(self) -> None:
        """Count one."""
        self._bar.advance(self._task)
        task = self._bar.tasks[0]
        self._line(f"{task.completed:.0f} of {task.total:.0f}")


class StepProgress(Bar):
    """Counts updates of what is called `what`, with their loss and the tokens per second."""

    def __init__(self, what: str, steps: int) -> None:
        columns = (TextColumn("step {task.completed:.0f}/{task.total}"), TextColumn("{task.fields[figures]}"))
        super().__init__(what, steps, *columns, figures="")

    def advance(self, step: int, loss: float, tokens: int) -> None:
        """Show the loss of a step, which has read so many tokens."""
        speed = self._bar.tasks[0].speed
        rate = "" if speed is None else f"  {speed * tokens:,.0f} tokens/s"
        self._bar.update(self._task, completed=step, figures=f"loss {loss:.4g}{rate}")
        self._line(f"step {step}/{self._bar.tasks[0].total:.0f}  loss {loss:.4g}{rate}")

    def say(self, line: str) -> None:
        """Leave a line behind, also in a log file."""
        self._bar.console.print(line, highlight=False, soft_wrap=True)


class ShareProgress(Bar):
    """How much of what is wanted of what is called `what` is reached, with the time left."""

    def __init__(self, what: str) -> None:
        super().__init__(what, 1, TextColumn("{task.percentage:.0f} %"))

    def reach(self, share: float) -> None:
        """So much is reached, 1 being all of it."""
        self._bar.update(self._task, completed=min(1.0, share))
        left = self._bar.tasks[0].time_remaining
        self._line(f"{min(1.0, share):.0%}" + ("" if left is None else f", about {left:.0f} s left"))


def watched(
    batches: Iterable[dict[str, Tensor]],
    total: int | None,
    what: str,
    tokens: Callable[[dict[str, Tensor]], int],
) -> Iterator[dict[str, Tensor]]:
    """The same batches, their `tokens` counted by a progress bar as each of them is done with."""
    with TokenProgress(total, what) as progress:
        for batch in batches:
            yield batch
            progress.advance(tokens(batch))
