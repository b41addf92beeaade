"""The progress bar of distillation: step, loss, tokens per second, time left."""

from __future__ import annotations

from rich.progress import TextColumn

from linscore.distillation.folder import DistilLoss
from linscore.progress import Bar


class DistilProgress(Bar):
    """Shown while it is entered."""

    def __init__(self, steps: int) -> None:
        columns = (TextColumn("step {task.completed:.0f}/{task.total}"), TextColumn("{task.fields[figures]}"))
        super().__init__("distilling", steps, *columns, figures="")

    def advance(self, loss: DistilLoss) -> None:
        """Show the losses of a step."""
        speed = self._bar.tasks[0].speed
        rate = "" if speed is None else f"  {speed * loss.tokens:,.0f} tokens/s"
        self._bar.update(self._task, completed=loss.step, figures=f"loss {loss.loss:.4g}{rate}")
