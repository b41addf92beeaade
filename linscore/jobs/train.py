"""The job of `linscore train`: from a recipe to a trained decoder, its curve, and the scores along it.

OUT/settings.json   the recipe
OUT/curve.jsonl     losses and rates (see `linscore.pretraining.curve`); OUT/curve.png at the end
OUT/checkpoint-N/   what transformers' Trainer saves, weights as safetensors
OUT/linearity/      a series as `linscore dynamics` writes it
OUT/model/          the trained decoder and its tokenizer, at the end
OUT/corpus/         tokenizer and token ids, while the training runs
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PrinterCallback, TrainingArguments, default_data_collator

from linscore.dynamics.callback import LinearityCallback
from linscore.dynamics.folder import SERIES
from linscore.dynamics.series import Dynamics
from linscore.errors import Interrupted, LinscoreError
from linscore.models.quiet import quiet
from linscore.options import PlaceOptions, RegularizerOptions, TextOptions, TrainingOptions
from linscore.pretraining.checkpoints import newest_checkpoint
from linscore.pretraining.curve import CURVE, CurveCallback, plot_curve, read_curve
from linscore.pretraining.heldout import HeldoutLossCallback
from linscore.pretraining.model import new_model
from linscore.pretraining.recipe import Recipe, read_recipe
from linscore.pretraining.sequences import PackedSequences
from linscore.pretraining.text import Prepared, prepare
from linscore.pretraining.trainer import PretrainingTrainer, StopWhenDiverged, training_arguments
from linscore.progress import StepProgress
from linscore.text.source import batch_of

__all__ = ["Trained", "run_train"]

SETTINGS, MODEL, LINEARITY, CORPUS, PLOT = "settings.json", "model", "linearity", "corpus", "curve.png"
FREE = ("micro_batch", "keep", "report_to")  # of a recipe: what may be another when a run goes on


@dataclass(frozen=True)
class Trained:
    """What `linscore train` did."""

    out: Path
    recipe: Recipe
    text: str  # what was trained on
    parameters: int
    tokens: int  # read, over all epochs
    curve: list[dict[str, Any]]
    dynamics: Dynamics

    @property
    def heldout_loss(self) -> float:
        """Of the trained decoder, in nats per token."""
        return next(line["heldout_loss"] for line in reversed(self.curve) if "heldout_loss" in line)


def run_train(
    config: str,
    *,
    out: str,
    text: TextOptions | None = None,
    regularizing: RegularizerOptions | None = None,
    training: TrainingOptions | None = None,
    place: PlaceOptions | None = None,
    resume: bool = False,
) -> Trained | None:
    """Train a decoder from nothing, by a recipe (see `read_recipe`) whose own values the options replace.

    Several processes (torchrun) share each update's batch; then those that are not the first return None. `resume` goes
    on from the newest whole checkpoint in `out`, with the recipe that it was begun with. A device is "auto", or "cpu"
    where there is a GPU.

    Raises:
        LinscoreError: for any input that cannot be used, or a loss that is no longer finite, with the step and the last
            good checkpoint.
        Interrupted: by Ctrl-C, where there is a checkpoint to go on from.
    """
    device = (place or PlaceOptions()).device
    recipe = _recipe(config, text or TextOptions(), regularizing or RegularizerOptions(), training or TrainingOptions())
    if device not in ("auto", "cpu"):
        raise LinscoreError(f"`device` is {device!r}: give auto or cpu, and choose among GPUs by CUDA_VISIBLE_DEVICES")
    folder = Path(out)
    arguments = training_arguments(recipe, folder, device)
    first = arguments.process_index == 0
    with _run_folder(folder, recipe, resume, first):
        with arguments.main_process_first(local=False):
            prepared = prepare(recipe, folder / CORPUS, first)
        model = new_model(recipe, prepared.tokenizer)
        with StepProgress("training", recipe.steps) as progress:
            trainer = _trainer(recipe, folder, arguments, model, prepared, progress)
            start = newest_checkpoint(folder)
            with quiet():  # each checkpoint would draw a bar of its own
                trainer.train(resume_from_checkpoint=None if start is None else str(start))
        if not first:
            return None
        trained = _finished(recipe, folder, model, prepared)
    shutil.rmtree(folder / CORPUS)
    return trained


def _recipe(config: str, text: TextOptions, regularizing: RegularizerOptions, training: TrainingOptions) -> Recipe:
    """The recipe with what was asked for in the place of its own."""
    changes = {**asdict(regularizing), "steps": training.steps, "seed": training.seed}
    recipe = read_recipe(config).but(changes)
    if regularizing.weight is not None and recipe.regularizer == "none":
        given = f"`weight={regularizing.weight}`"
        raise LinscoreError(f"{given} is given, but there is no regularizer: give `regularizer`")
    return replace(recipe, text=text.text, dataset=text.dataset) if text.given else recipe


def _trainer(
    recipe: Recipe,
    folder: Path,
    arguments: TrainingArguments,
    model: PreTrainedModel,
    prepared: Prepared,
    progress: StepProgress,
) -> PretrainingTrainer:
    tokens = recipe.batch_size * recipe.seq_len

    def show(step: int, line: dict[str, Any]) -> None:
        if "loss" in line:
            progress.advance(step, line["loss"], tokens)
        else:
            progress.say(f"step {step}: held-out loss {line['heldout_loss']:.4f}")

    trainer = PretrainingTrainer(
        model=model,
        args=arguments,
        train_dataset=PackedSequences(prepared.corpus, recipe.seq_len, recipe.steps * recipe.batch_size, recipe.seed),
        processing_class=prepared.tokenizer,
        data_collator=default_data_collator,
        **recipe.weights,
    )
    # From here on in this order: nothing reads weights that are not finite.
    batches = prepared.heldout.split(batch_of(recipe.seq_len, arguments.device))
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(StopWhenDiverged(trainer, recipe.score_every))
    trainer.add_callback(CurveCallback(folder, tokens, show))
    trainer.add_callback(HeldoutLossCallback(batches, recipe.score_every, trainer))
    trainer.add_callback(LinearityCallback(batches, recipe.score_every, folder / LINEARITY, trainer))
    return trainer


def _finished(recipe: Recipe, folder: Path, model: PreTrainedModel, prepared: Prepared) -> Trained:
    """Save the model and draw the curve."""
    model.config.use_cache = True  # the Trainer has turned it off
    partial = folder / f".{MODEL}"
    shutil.rmtree(partial, ignore_errors=True)
    with quiet():
        model.save_pretrained(partial)
    prepared.tokenizer.save_pretrained(partial)
    curve = read_curve(folder / CURVE)
    plot_curve(curve, folder / PLOT)
    partial.rename(folder / MODEL)
    return Trained(
        out=folder,
        recipe=recipe,
        text=prepared.text,
        parameters=model.num_parameters(),
        tokens=recipe.steps * recipe.batch_size * recipe.seq_len,
        curve=curve,
        dynamics=Dynamics.load(folder / LINEARITY / SERIES),
    )


@contextmanager
def _run_folder(folder: Path, recipe: Recipe, resume: bool, first: bool) -> Iterator[None]:
    """The folder of a run, new or gone on with; after an error it is left only where it holds a checkpoint."""
    if first:
        _resume(folder, recipe) if resume else _begin(folder, recipe)
    try:
        yield
    except BaseException as error:
        kept = newest_checkpoint(folder)
        if kept is None and first:
            shutil.rmtree(folder)
        elif isinstance(error, KeyboardInterrupt) and kept is not None:
            raise Interrupted(f"interrupted: go on from {kept} with `resume`") from error
        raise


def _begin(folder: Path, recipe: Recipe) -> None:
    if folder.exists():
        raise LinscoreError(f"{folder} exists: give `out` a folder that is not there yet, or `resume` its run")
    try:
        folder.mkdir(parents=True)
        (folder / SETTINGS).write_text(json.dumps(_anywhere(recipe), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise LinscoreError(f"cannot write to {folder} ({error.strerror}): give another `out`") from error


def _resume(folder: Path, recipe: Recipe) -> None:
    if (folder / MODEL).exists():
        raise LinscoreError(f"the run in {folder} has come to its end: give another `out`, without `resume`")
    try:
        begun = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        asked = _anywhere(recipe)
        other = next((name for name in asked if name not in FREE and begun[name] != asked[name]), None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LinscoreError(f"{folder} holds no run to go on with: give another `out`, without `resume`") from error
    if other is not None:
        raise LinscoreError(f"{folder} was begun with {other} {begun[other]}, not {asked[other]}: give the same")
    if newest_checkpoint(folder) is None:  # killed before the first: begin anew
        shutil.rmtree(folder / LINEARITY, ignore_errors=True)
        (folder / CURVE).unlink(missing_ok=True)


def _anywhere(recipe: Recipe) -> dict[str, Any]:
    """The recipe by names that hold in every working directory."""
    local = recipe.text is not None and Path(recipe.text).exists()
    return asdict(recipe) | {"text": str(Path(str(recipe.text)).resolve()) if local else recipe.text}
