"""A progress bar on standard error: step, loss, tokens per second, time left."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from linscore.distillation.folder import DistilLoss


class DistilProgress:
    """Shown while it is entered."""

    def __init__(self, steps: int) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("step {task.completed:.0f}/{task.total}"))
        self._bar = Progress(
            *(*columns, TextColumn("{task.fields[figures]}"), TimeRemainingColumn()),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # a log file wants no bar
        )
        self._task = self._bar.add_task("distilling", total=steps, figures="")

    def advance(self, loss: DistilLoss) -> None:
        """Show the losses of a step."""
        speed = self._bar.tasks[0].speed
        rate = "" if speed is None else f"  {speed * loss.tokens:,.0f} tokens/s"
        self._bar.update(self._task, completed=loss.step, figures=f"loss {loss.loss:.4g}{rate}")

    def __enter__(self) -> DistilProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
