"""The folder of a distillation that is under way: its loss curve, and the last checkpoint to go on from.

losses.jsonl    a line per step
step_N/         what accelerate saves: trained parameters (safetensors), optimizer (torch's format), random states
"""

from __future__ import annotations

import re
import shutil
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from torch import Tensor, nn

from linscore.errors import LinscoreError, reason
from linscore.files.curve import append_line, read_curve, write_curve
from linscore.files.json_file import build
from linscore.files.parts import remove_leftovers
from linscore.files.whole import new_folder, sync
from linscore.surgery.record import CURVE

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["CURVE", "DistilFolder", "DistilLoss", "newest_checkpoint"]


@dataclass(frozen=True)
class DistilLoss:
    """The losses of one step, on the batch it was trained on, before its update."""

    step: int  # from 1
    loss: float  # the weighted sum of the next three
    hidden: float | None  # sum over the pairs of the share of variance that is missed; None: not computed
    kl: float | None  # nats per token
    lm: float | None  # nats per token
    learning_rate: float
    tokens: int  # real ones of the step, of all processes


class DistilFolder:
    """Keeps the curve and the newest checkpoint of what `accelerator` has prepared.

    Args:
        path: the folder; is made by `start`.
        accelerator: has prepared one module and one optimizer.
        student: that module, before it was prepared; of its parameters those that need gradients are saved.
    """

    def __init__(self, path: str | Path, accelerator: Accelerator, student: nn.Module) -> None:
        self.path, self._accelerator = Path(path), accelerator
        trained = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
        accelerator.register_save_state_pre_hook(partial(_leave_frozen_out, trained))

    def start(self, *, resume: bool) -> list[DistilLoss]:
        """Begin, or go back to the newest checkpoint; the curve up to there.

        Raises:
            LinscoreError: when a run is there and `resume` is not given, or its files do not fit.
        """
        step = max(_steps(self.path), default=0)
        curve_file = self.path / CURVE
        if not resume and (step or curve_file.exists()):
            raise LinscoreError(f"{self.path} holds a run already: resume it, or give another folder")
        if step:
            self._load(step)
        curve = self._read(curve_file, step)
        self._accelerator.wait_for_everyone()  # before the main process writes what all have read
        if self._accelerator.is_main_process:
            self.path.mkdir(parents=True, exist_ok=True)
            if resume:
                remove_leftovers(self.path)
            write_curve(curve_file, map(asdict, curve))
        return curve

    def append(self, loss: DistilLoss) -> None:
        """Add a step to the curve."""
        if self._accelerator.is_main_process:
            append_line(self.path / CURVE, asdict(loss))

    def save(self, step: int) -> None:
        """Save a whole checkpoint, and only then remove the one before."""
        from accelerate.utils import broadcast_object_list

        main = self._accelerator.is_main_process
        with new_folder(self._checkpoint(step)) if main else nullcontext() as new:
            [place] = broadcast_object_list([str(new)])  # all processes save to the folder of the first
            self._accelerator.save_state(place)
            self._accelerator.wait_for_everyone()
            if main:
                sync(self.path / CURVE)  # a checkpoint without its lines could not be gone on from
        for old in _steps(self.path) - {step} if main else ():
            shutil.rmtree(self._checkpoint(old))
        self._accelerator.wait_for_everyone()

    def _checkpoint(self, step: int) -> Path:
        return self.path / f"step_{step}"

    def _load(self, step: int) -> None:
        from accelerate.utils import RNG_STATE_NAME, load

        random_states = self._checkpoint(step) / f"{RNG_STATE_NAME}_{self._accelerator.process_index}.pkl"
        if not random_states.exists():  # of a run that fewer processes have begun
            random_states = random_states.with_name(f"{RNG_STATE_NAME}_0.pkl")
        try:
            load(random_states)  # accelerate itself passes over damage in these
            self._accelerator.load_state(str(self._checkpoint(step)), strict=False)  # frozen parameters are not there
        except (ValueError, RuntimeError, KeyError, OSError, EOFError, UnpicklingError, SafetensorError) as error:
            raise LinscoreError(f"{self._checkpoint(step)} is damaged or of another model: start again") from error

    def _read(self, path: Path, step: int) -> list[DistilLoss]:
        """The first `step` lines; what follows was trained after the checkpoint."""
        lines = read_curve(path) if step and path.exists() else []
        try:
            curve = [build(DistilLoss, line) for line in lines if line["step"] <= step]
        except ValueError as error:
            raise LinscoreError(f"{path} is damaged: start again ({reason(error)})") from error
        if [loss.step for loss in curve] != list(range(1, step + 1)):
            raise LinscoreError(f"{path} does not hold steps 1 to {step} of its checkpoint: start again")
        return curve


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run; None where there is none."""
    step = max(_steps(folder), default=None)
    return None if step is None else folder / f"step_{step}"


def _steps(folder: Path) -> set[int]:
    found = [re.fullmatch(r"step_(\d+)", path.name) for path in folder.glob("step_*")]
    return {int(match[1]) for match in found if match}


def _leave_frozen_out(
    trained: set[str], _models: list[nn.Module], weights: list[OrderedDict[str, Tensor]], _folder: str
) -> None:
    for state in weights:
        for name in state.keys() - trained:
            del state[name]
