"""The job of `linscore finetune-delta`: score, fine-tune and score again, for several seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from transformers import PreTrainedTokenizerBase, set_seed

from linscore.embedded.shipped import EMBEDDED
from linscore.errors import LinscoreError, at_least
from linscore.files.whole import new_folder
from linscore.finetuning.delta import FinetuneDelta, SeedResult, not_learned
from linscore.finetuning.examples import Examples, class_examples, preference_examples, split
from linscore.finetuning.fine_tune import Finetuning, accuracy, fine_tune
from linscore.jobs.together import share
from linscore.machine.extras import need
from linscore.machine.processes import Processes
from linscore.machine.versions import versions
from linscore.models.load import Pretrained, load_tokenizer, load_with_head, read_context
from linscore.models.release import release
from linscore.options.place import PlaceOptions
from linscore.options.score import ScoreOptions
from linscore.options.text import LabelledOptions, TextOptions
from linscore.options.training import FINETUNE_TEXT, FinetuneOptions, TrainingOptions
from linscore.progress import StepProgress, TokenProgress
from linscore.scoring.block_figures import FIGURES, block_figures
from linscore.scoring.report import Report
from linscore.scoring.score import score_decoder
from linscore.text.batch import Batch
from linscore.text.labelled import labelled_texts, preferences
from linscore.text.source import Text, batch_of, labelled_source, within_context
from linscore.text.tokens import pad_right

__all__ = ["run_finetune_delta"]

RESULT = "finetune.json"
LONGEST = 512


def run_finetune_delta(
    model: str = EMBEDDED,
    *,
    labelled: LabelledOptions | None = None,
    finetuning: FinetuneOptions | None = None,
    training: TrainingOptions | None = None,
    scored: TextOptions = FINETUNE_TEXT,
    place: PlaceOptions | None = None,
    out: str | None = None,
) -> FinetuneDelta | None:
    """How fine-tuning moves the linearity of every block (paper: table 1).

    Each seed starts from the same weights with a head, a split and an order of its own. All weights are trained, in
    float32 (bfloat16 products on a GPU). What is scored are the same tokens before and after: the texts of the data,
    each by itself, or `finetuning.score_text`. Without `out` nothing is written, else `finetune.json`. Of several
    processes (torchrun), which share each update's batch and the scores, those that are not the first return None.

    Raises:
        LinscoreError: for any input that cannot be used, or a loss that is not finite; then nothing is written.
    """
    need("train", "fine-tuning", "accelerate", "sklearn")
    labelled, asked, place = labelled or LabelledOptions(), finetuning or FinetuneOptions(), place or PlaceOptions()
    processes = share(place, labelled_source(labelled))
    trust = place.trust_remote_code
    settings = _settings(asked, training or TrainingOptions(), scored)
    context = read_context(model, trust_remote_code=trust)
    longest = within_context("longest", asked.longest, context, LONGEST, of=model)
    examples = _examples(load_tokenizer(model, trust_remote_code=trust), labelled, asked, longest)
    text = _Scored(examples, asked.score_text, scored.tokens)
    with new_folder(out) if out is not None and processes.first else nullcontext() as folder:
        settings, before, results = _seeds(model, examples, settings, text, asked.seeds, place, processes)
        result = FinetuneDelta(
            model=model,
            task=asked.task,
            data=str(labelled_source(labelled)),
            examples=len(examples.ids),
            truncated=examples.truncated,
            classes=examples.classes,
            baseline=examples.baseline,
            scored_text=asked.score_text or "the texts of the data",
            tokens=before.tokens,
            settings=asdict(settings) | {"longest": longest},
            before=block_figures(before, FIGURES),
            seeds=results,
            warnings=[*(warning.message for warning in before.warnings), *not_learned(results, examples.baseline)],
            versions=versions(),
        )
        if folder is not None:
            (folder / RESULT).write_text(result.to_json(out), encoding="utf-8")
    return result if processes.first else None


def _settings(asked: FinetuneOptions, training: TrainingOptions, scored: TextOptions) -> Finetuning:
    """How the head is trained; LinscoreError for what cannot be."""
    at_least("seeds", asked.seeds, 1)
    at_least("tokens", scored.tokens, 1)
    at_least("longest", asked.longest, 2)
    return Finetuning(epochs=asked.epochs, batch_size=scored.batch_size or 0, learning_rate=training.learning_rate)


def _examples(
    tokenizer: PreTrainedTokenizerBase, labelled: LabelledOptions, asked: FinetuneOptions, longest: int
) -> Examples:
    """What the head is trained on."""
    source = labelled_source(labelled)
    if asked.task == "classification":
        found = labelled_texts(source, text_field=labelled.text_field, label_field=labelled.label_field)
        return class_examples(found, tokenizer, longest)
    if asked.task == "reward":
        pairs = preferences(source, chosen_field=asked.chosen_field, rejected_field=asked.rejected_field)
        return preference_examples(pairs, tokenizer, longest)
    raise LinscoreError(f"`task` is {asked.task!r}: give classification or reward")


def _seeds(
    model: str,
    examples: Examples,
    settings: Finetuning,
    text: _Scored,
    seeds: int,
    place: PlaceOptions,
    processes: Processes,
) -> tuple[Finetuning, Report, list[SeedResult]]:
    """How the head was trained, the scores before, and every seed's result."""
    before: Report | None = None
    results = []
    for seed in range(seeds):
        set_seed(seed)
        loaded = load_with_head(model, examples.outputs, device=place.device, trust_remote_code=place.trust_remote_code)
        before = text.report(loaded, "before", processes) if before is None else before
        settings = settings.for_width(before.blocks[0].width)
        results.append(_tuned(loaded, examples, settings, seed, text, processes))
        del loaded  # before the next one comes
        release()
    assert before is not None
    return settings, before, results


def _tuned(
    loaded: Pretrained, examples: Examples, settings: Finetuning, seed: int, text: _Scored, processes: Processes
) -> SeedResult:
    places, heldout = split(examples, seed)
    mean = sum(map(len, examples.texts)) // len(examples.ids)
    losses = []
    with StepProgress(f"fine-tuning, seed {seed}", settings.steps(len(places))) as bar:

        def tell(step: int, loss: float) -> None:
            losses.append(loss)
            bar.advance(step, loss, settings.batch_size * mean)

        fine_tune(loaded.model, examples, places, settings, seed=seed, progress=tell, processes=processes)
    right = accuracy(loaded.model, examples, heldout, settings.batch_size)
    after = block_figures(text.report(loaded, f"after, seed {seed}", processes), FIGURES)
    return SeedResult(seed, right, losses[-1], after)


class _Scored:
    """The tokens that are scored before and after."""

    def __init__(self, examples: Examples, path: str | None, tokens: int | None) -> None:
        self._examples, self._tokens = examples, tokens
        self._text = None if path is None else Text(TextOptions(text=path, tokens=tokens), "score_text")
        if path == "-":
            raise LinscoreError("`score_text` is -, which can be read only once: give a file")
        if self._text is not None:
            self._text.source.check()

    def report(self, loaded: Pretrained, what: str, processes: Processes) -> Report:
        """The scores of a model as it is now."""
        how: dict[str, Any] = {"spectra": False, "name": what, "processes": processes}
        with TokenProgress(None, f"scoring {what}") as progress:
            batches = self._batches(loaded)
            return score_decoder(loaded.decoder, batches, ScoreOptions(), **how, progress=progress.advance)

    def _batches(self, loaded: Pretrained) -> Iterator[Batch]:
        if self._text is not None:
            yield from self._text.batches(loaded.tokenizer, loaded.context, loaded.model.device)
            return
        left, texts = self._tokens, []
        for ids in self._examples.texts:
            texts.append(ids[:left])
            left = None if left is None else left - len(texts[-1])
            if left == 0:
                break
        rows = batch_of(max(map(len, texts)), loaded.model.device)
        for start in itertools.count(0, rows):
            if start >= len(texts):
                return
            padded, mask = pad_right(texts[start : start + rows])
            yield {"input_ids": padded, "attention_mask": mask}
