"""The job of `linscore train`: from a recipe to a trained decoder, its curve, and the scores along it.

OUT/settings.json   the recipe
OUT/curve.jsonl     losses and rates (see `linscore.pretraining.curve`); OUT/curve.png at the end
OUT/checkpoint-N/   what transformers' Trainer saves, weights as safetensors
OUT/linearity/      a series as `linscore dynamics` writes it
OUT/model/          the trained decoder and its tokenizer, at the end
OUT/corpus/         tokenizer and token ids, while the training runs
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PrinterCallback, TrainingArguments, default_data_collator

from linscore.dynamics.callback import LinearityCallback
from linscore.dynamics.folder import SERIES
from linscore.dynamics.series import Dynamics
from linscore.errors import LinscoreError
from linscore.files.curve import read_curve
from linscore.files.run_folder import RunFolder
from linscore.files.whole import new_folder
from linscore.machine.extras import need
from linscore.models.quiet import quiet
from linscore.models.read_back import check_saved
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.options.training import RegularizerOptions, TrainingOptions
from linscore.pictures import file_of
from linscore.pretraining.checkpoints import any_checkpoint, newest_checkpoint
from linscore.pretraining.curve import CURVE, CurveCallback, plot_curve
from linscore.pretraining.heldout import HeldoutLossCallback
from linscore.pretraining.model import new_model
from linscore.pretraining.recipe import Recipe, read_recipe
from linscore.pretraining.sequences import PackedSequences
from linscore.pretraining.text import Prepared, prepare
from linscore.pretraining.trainer import PretrainingTrainer, StopWhenDiverged, training_arguments
from linscore.progress import StepProgress
from linscore.text.source import batch_of

__all__ = ["Trained", "run_train"]

MODEL, LINEARITY, CORPUS, PLOT = "model", "linearity", "corpus", "curve"
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
        LinscoreError: for any input that cannot be used, checkpoints none of which is whole, another process at work on
            the same run, or a loss that is no longer finite, with the step and the last good checkpoint.
        Interrupted: by Ctrl-C, where there is a run to go on with.
    """
    need("train", "training", "accelerate", "matplotlib")
    device = (place or PlaceOptions()).device
    recipe = _recipe(config, text or TextOptions(), regularizing or RegularizerOptions(), training or TrainingOptions())
    if device not in ("auto", "cpu"):
        raise LinscoreError(f"`device` is {device!r}: give auto or cpu, and choose among GPUs by CUDA_VISIBLE_DEVICES")
    folder = Path(out)
    arguments = training_arguments(recipe, folder, device)
    first = arguments.process_index == 0
    with RunFolder(folder, recipe, free=FREE, places=("text",)) as run:
        if first:
            _resume(run, recipe) if resume else run.begin()
        with run.kept(lambda: any_checkpoint(folder)):
            with arguments.main_process_first(local=False):
                prepared = prepare(recipe, folder / CORPUS, first)
            model = new_model(recipe, prepared.tokenizer)
            with StepProgress("training", recipe.steps) as progress:
                trainer = _trainer(recipe, folder, arguments, model, prepared, progress)
                start = newest_checkpoint(folder, partial(_say_skipped, progress) if first else None)
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
    curve = read_curve(folder / CURVE)
    plot_curve(curve, folder / file_of(PLOT))
    with new_folder(folder / MODEL) as new:  # which marks the end: the last to be there
        with quiet():
            model.save_pretrained(new)
        prepared.tokenizer.save_pretrained(new)
        check_saved(new, model)
    return Trained(
        out=folder,
        recipe=recipe,
        text=prepared.text,
        parameters=model.num_parameters(),
        tokens=recipe.steps * recipe.batch_size * recipe.seq_len,
        curve=curve,
        dynamics=Dynamics.load(folder / LINEARITY / SERIES),
    )


def _resume(run: RunFolder, recipe: Recipe) -> None:
    folder = run.path
    if (folder / MODEL).exists():
        raise LinscoreError(f"the run in {folder} has come to its end: give another `out`, without `resume`")
    run.resume(Recipe)
    if newest_checkpoint(folder) is not None:
        return
    lost = any_checkpoint(folder)
    if lost is not None:
        raise LinscoreError(
            f"no checkpoint in {folder} is whole, {lost} and those before it are damaged: bring one back from a copy, "
            "or give another `out`, without `resume`"
        )
    curve = read_curve(folder / CURVE) if (folder / CURVE).exists() else []
    if curve and curve[-1]["step"] > recipe.save_every:
        raise LinscoreError(
            f"{folder} holds no checkpoint, but a curve up to step {curve[-1]['step']}: bring its checkpoints back, or "
            "give another `out`, without `resume`"
        )
    shutil.rmtree(folder / LINEARITY, ignore_errors=True)  # killed before the first: begin anew
    (folder / CURVE).unlink(missing_ok=True)


def _say_skipped(progress: StepProgress, checkpoint: Path) -> None:
    progress.say(f"{checkpoint} is damaged: going on from an older one")
