"""The healing of `linscore compress`: in closed form, then by steps; each stays where it loses less on what chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel

from linscore.compression.build import built
from linscore.compression.heal import Healed, heal
from linscore.compression.search import Step
from linscore.decoder.find import find_decoder
from linscore.distillation.distil import DistilLoss, distil
from linscore.errors import LinscoreError
from linscore.jobs.compress_search import Found
from linscore.jobs.compress_texts import Texts
from linscore.jobs.cut import described, parameter_names, stand_in_path
from linscore.models.load import Pretrained
from linscore.progress import StepProgress
from linscore.spans import Unit, after, indices
from linscore.surgery.left_out import left_out_losses
from linscore.surgery.record import Replacement

HEALS = ("closed", "none")
LEARNING_RATE = 3e-4


def heal_steps(heals: str) -> int | None:
    """How many steps of distillation `heal` asks for; None where it names none.

    Raises:
        LinscoreError: where it is neither a number nor a word that it knows.
    """
    if heals in HEALS:
        return None
    if not heals.isdecimal() or not int(heals):
        raise LinscoreError(f"`heal={heals}` is unknown: choose {', '.join(HEALS)}, or a number of steps")
    return int(heals)


@dataclass(frozen=True)
class Best:
    """What loses least on the text that chooses so far.

    Attributes:
        cut: a model of its own.
        healed: what is in it.
        step: what was chosen for it.
        how: none, closed, or a number of steps.
        loss: on the text that chooses.
        interrupted: by Ctrl-C, before healing was done.
    """

    cut: PreTrainedModel
    healed: Healed
    step: Step
    how: str
    loss: float
    interrupted: bool = False


def heal_cut(loaded: Pretrained, texts: Texts | None, found: Found, heals: str, say: Callable[[str], None]) -> Best:
    """A choice built and healed as far as that helps; Ctrl-C leaves it as it was before.

    Whole blocks that were found to drop are healed, too, and take its place where they lose less then.
    """
    choice, table = found.step.choice, found.table
    plain = Healed({unit: table.rows[unit].fitted(form) for unit, form in choice.items()})
    best = Best(built(loaded.model, plain), plain, found.step, "none", found.step.loss)
    if heals == "none" or not choice:
        return best
    if texts is None:
        say("there is no text to heal on: left out")
        return best
    if table.trials is None:
        best = replace(best, loss=_loss(best.cut, texts))
    try:
        say("healing what is left")
        closed = _closed(loaded, texts, found, found.step)
        best, refitted = _better(best, closed, say), closed.healed
        if found.dropped not in (None, found.step):
            dropped = _closed(loaded, texts, found, found.dropped)
            if dropped.loss < best.loss:
                say("whole blocks that are dropped lose less, once they are healed: taken")
                best, refitted = dropped, dropped.healed
        if (steps := heal_steps(heals)) is not None:
            student = built(loaded.model, best.healed)
            touched = _touched(student, best.healed, refitted)
            if not touched:
                say("nothing stands for what is gone or comes after it: no steps of healing")
                return best
            _train(student, loaded, texts, best.healed, touched, steps)
            best = _better(best, replace(best, cut=student, how=str(steps), loss=_loss(student, texts)), say)
    except KeyboardInterrupt:
        return replace(best, interrupted=True)
    return best


def _closed(loaded: Pretrained, texts: Texts, found: Found, step: Step) -> Best:
    """A choice, healed in closed form."""
    healed = heal(loaded.decoder, found.table.sub_blocks, step.choice, texts.fit)
    cut = built(loaded.model, healed)
    return Best(cut, healed, step, "closed", _loss(cut, texts))


def _better(best: Best, other: Best, say: Callable[[str], None]) -> Best:
    """Which of both loses less: text unlike the model's own may harm it. The text that reports is not asked."""
    if other.loss < best.loss:
        return other
    say(f"healing ({other.how}) costs more on the text that chooses: left out")
    return best


def _loss(cut: PreTrainedModel, texts: Texts) -> float:
    return left_out_losses(find_decoder(cut), texts.choose, [])[None]


def _train(
    student: PreTrainedModel, loaded: Pretrained, texts: Texts, healed: Healed, touched: dict[int, set[str]], steps: int
) -> None:
    """Distil what was touched; states before the first of that cannot change, so they are not met."""
    there = [(one.block, one.stands_for) for one in replacements(student, healed) if one.block is not None]
    with StepProgress("healing", steps) as progress:

        def advance(loss: DistilLoss) -> None:
            progress.advance(loss.step, loss.loss, loss.tokens)

        distil(
            student,
            loaded.model,
            texts.fit,
            pairs={block: original for block, original in there if block >= min(touched)},
            steps=steps,
            parameters=set().union(*touched.values()),
            learning_rate=LEARNING_RATE,
            progress=advance,
        )


def _touched(cut: PreTrainedModel, healed: Healed, closed: Healed) -> dict[int, set[str]]:
    """By block of a cut model, the parameters of maps and of the projections that the closed form would change."""
    gone = _gone(closed)
    found: dict[int, set[str]] = {}
    for one in replacements(cut, healed):
        if one.block is not None and one.parameters:
            found.setdefault(one.block, set()).update(one.parameters)
    for unit, change in closed.changes.items():
        index = after(unit.span.first, gone)
        found.setdefault(index, set()).update(parameter_names(cut, index, change.path))
    return found


def _gone(healed: Healed) -> list[int]:
    """Blocks that are not there."""
    return indices(unit.span for unit, fitted in healed.maps.items() if fitted is None and not unit.part)


def replacements(cut: Any, healed: Healed) -> list[Replacement]:
    """What became of each unit, and where its output is met."""
    gone = _gone(healed)
    found = []
    for unit, fitted in sorted(healed.maps.items()):
        index = after(unit.span.first, gone)
        if fitted is None:
            block = index if unit.part else index - 1
            found.append(Replacement(str(unit), "dropped", block if block >= 0 else None))
        else:
            names = parameter_names(cut, index, stand_in_path(cut, index, Unit(unit.span, unit.part)))
            found.append(Replacement(str(unit), "linear", index, names, described(fitted, None)))
    return found
