"""The job of `linscore finetune-delta`: score, fine-tune and score again, for several seeds."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict

from transformers import set_seed

from linscore.embedded.shipped import EMBEDDED
from linscore.errors import LinscoreError
from linscore.files import new_folder
from linscore.finetuning.delta import FinetuneDelta, SeedResult, figures_of
from linscore.finetuning.examples import Examples, class_examples, preference_examples, split
from linscore.finetuning.fine_tune import Finetuning, accuracy, fine_tune
from linscore.machine.versions import versions
from linscore.models.load import Pretrained, load_tokenizer, load_with_head, read_context
from linscore.progress import StepProgress, TokenProgress
from linscore.scoring.collect import Batch
from linscore.scoring.report import Report
from linscore.scoring.score import score
from linscore.text.labelled import Source, labelled_texts, preferences
from linscore.text.source import BATCH_TOKENS, Text
from linscore.text.tokens import pad_right

__all__ = ["run_finetune_delta"]

RESULT = "finetune.json"
LONGEST, TOKENS = 512, 100_000


def run_finetune_delta(
    model: str = EMBEDDED,
    *,
    data: str | None = None,
    dataset: str | None = None,
    task: str = "classification",
    text_field: str = "text",
    label_field: str = "label",
    chosen_field: str = "chosen",
    rejected_field: str = "rejected",
    seeds: int = 3,
    epochs: int = 3,
    batch_size: int = 16,
    learning_rate: float = 2e-5,
    longest: int | None = None,
    score_text: str | None = None,
    tokens: int = TOKENS,
    device: str = "auto",
    out: str | None = None,
) -> FinetuneDelta:
    """How fine-tuning moves the linearity of every block (paper: table 1); the arguments are those of the command.

    Each seed starts from the same weights with a head, a split and an order of its own. All weights are trained, in
    float32 (bfloat16 products on a GPU). What is scored are the same tokens before and after: the texts of the data,
    each by itself, or `score_text`.

    Args:
        model: Hub name, folder or "embedded".
        data: file of rows (see `read_rows`).
        dataset: `NAME`, `NAME:CONFIG` or `NAME:CONFIG:SPLIT` of `datasets` in its place.
        task: "classification", or "reward" for pairs of texts.
        text_field: column of the text, or several separated by commas, joined by a newline.
        label_field: column of the class.
        chosen_field: columns of the better text of a pair.
        rejected_field: columns of the other.
        seeds: how many, 0 to `seeds` − 1.
        epochs: passes over the training examples.
        batch_size: examples in an update.
        learning_rate: its peak.
        longest: tokens of a text that are read at most, the last ones [the context, at most 512].
        score_text: text to score on, as `read_documents` takes it.
        tokens: that are scored at most.
        device: see `load_pretrained`.
        out: a new folder for `finetune.json`; nothing is written without it.

    Raises:
        LinscoreError: for any input that cannot be used, or a loss that is not finite; then nothing is written.
    """
    settings = Finetuning(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate)
    for option, value, least in (("seeds", seeds, 1), ("tokens", tokens, 1), ("longest", longest, 2)):
        if value is not None and value < least:
            raise LinscoreError(f"--{option} is {value}: give {least} or more")
    context = read_context(model)
    limit = longest or min(context or LONGEST, LONGEST)
    if context and limit > context:
        raise LinscoreError(f"--longest {limit} is longer than the context of {model}, {context} tokens: give less")
    source, tokenizer = Source(data, dataset), load_tokenizer(model)
    if task == "classification":
        found = labelled_texts(source, text_field=text_field, label_field=label_field)
        examples = class_examples(found, tokenizer, limit)
    elif task == "reward":
        pairs = preferences(source, chosen_field=chosen_field, rejected_field=rejected_field)
        examples = preference_examples(pairs, tokenizer, limit)
    else:
        raise LinscoreError(f"--task is {task!r}: give classification or reward")
    text = _Scored(examples, score_text, tokens)
    with nullcontext() if out is None else new_folder(out) as folder:
        before: Report | None = None
        results = []
        for seed in range(seeds):
            set_seed(seed)
            loaded = load_with_head(model, examples.outputs, device=device)
            before = text.report(loaded, "before") if before is None else before
            results.append(_tuned(loaded, examples, settings, seed, text))
            del loaded  # before the next one comes
            gc.collect()  # models hold themselves in cycles
        assert before is not None
        result = FinetuneDelta(
            model=model,
            task=task,
            data=str(source),
            examples=len(examples.ids),
            truncated=examples.truncated,
            classes=examples.classes,
            baseline=examples.baseline,
            scored_text=score_text or "the texts of the data",
            tokens=before.tokens,
            settings=asdict(settings) | {"longest": limit},
            before=figures_of(before),
            seeds=results,
            warnings=[warning.message for warning in before.warnings],
            versions=versions(),
        )
        if folder is not None:
            (folder / RESULT).write_text(result.to_json(), encoding="utf-8")
    return result


def _tuned(loaded: Pretrained, examples: Examples, settings: Finetuning, seed: int, text: _Scored) -> SeedResult:
    places, heldout = split(examples, seed)
    steps = settings.epochs * -(-len(places) // settings.batch_size)
    mean = sum(map(len, examples.texts)) // len(examples.ids)
    losses = []
    with StepProgress(f"fine-tuning, seed {seed}", steps) as bar:

        def tell(step: int, loss: float) -> None:
            losses.append(loss)
            bar.advance(step, loss, settings.batch_size * mean)

        fine_tune(loaded.model, examples, places, settings, seed=seed, progress=tell)
    right = accuracy(loaded.model, examples, heldout, settings.batch_size)
    return SeedResult(seed, right, losses[-1], figures_of(text.report(loaded, f"after, seed {seed}")))


class _Scored:
    """The tokens that are scored before and after."""

    def __init__(self, examples: Examples, path: str | None, tokens: int) -> None:
        self._examples, self._path, self._tokens = examples, path, tokens
        if path == "-":
            raise LinscoreError("--score-text is -, which can be read only once: give a file")
        Text(path, tokens=tokens).check()

    def report(self, loaded: Pretrained, what: str) -> Report:
        """The scores of a model as it is now."""
        with TokenProgress(None, f"scoring {what}") as progress:
            return score(loaded.model, self._batches(loaded), spectra=False, name=what, progress=progress.advance)

    def _batches(self, loaded: Pretrained) -> Iterator[Batch]:
        if self._path is not None:
            yield from Text(self._path, tokens=self._tokens).batches(loaded)
            return
        left, texts = self._tokens, []
        for ids in self._examples.texts:
            texts.append(ids[:left])
            left -= len(texts[-1])
            if not left:
                break
        rows = max(1, BATCH_TOKENS[loaded.model.device.type] // max(map(len, texts)))
        for start in itertools.count(0, rows):
            if start >= len(texts):
                return
            padded, mask = pad_right(texts[start : start + rows])
            yield {"input_ids": padded, "attention_mask": mask}
