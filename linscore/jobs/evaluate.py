"""The job of `linscore evaluate`: models side by side, by what they cost and how well they predict and answer."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from linscore.errors import LinscoreError
from linscore.evaluation.perplexity import TextLoss, next_token_losses, text_loss
from linscore.evaluation.result import Evaluation
from linscore.evaluation.tasks import LoadedTasks, load_tasks, run_tasks
from linscore.machine.device import choose_device
from linscore.models.load import Pretrained, load_pretrained, read_context
from linscore.progress import TokenProgress
from linscore.surgery.record import RECORD, Record
from linscore.text.source import BATCH_TOKENS, DATASET_TOKENS, LONGEST, Text

__all__ = ["run_evaluate"]

WARM_UP = 128  # tokens: first calls choose kernels and reserve memory
MIB = 2**20
_FORMS = {"dropped": "dropped", "fused": "fused", "linear": "linearized"}


@dataclass(frozen=True)
class _Options:
    """The options of `linscore evaluate` that every model of a run shares."""

    text: Text | None
    tasks: LoadedTasks | None
    window: int | None
    stride: int | None
    batch_size: int | None
    limit: int | None
    dtype: str
    device: str


def run_evaluate(
    models: Sequence[str],
    *,
    text: str | None = None,
    dataset: str | None = None,
    tasks: str | None = None,
    task_data: Sequence[str] = (),
    include_path: str | None = None,
    tokens: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
) -> list[Evaluation]:
    """Evaluate models one after the other; the arguments are those of `linscore evaluate`.

    Args:
        models: Hub names, folders or "embedded".
        text: as `read_documents` takes it; where neither it nor `dataset` nor `tasks` is given, the built-in text.
        dataset: as `read_dataset` takes it, in place of `text`.
        tasks: names of lm-eval tasks, separated by commas.
        task_data: "NAME=FILE" for tasks whose data is a local file.
        include_path: a folder with more task configurations.
        tokens: predict at most so many [all; 1,000,000 of a dataset].
        window: tokens that a model is fed at a time [its context, at most 2,048].
        stride: how far the next window is moved [half the window].
        batch_size: windows or answers that run together [4,096 tokens; GPU 16,384].
        limit: take only the first so many questions of each task.
        dtype: see `load_pretrained`.
        device: see `load_pretrained`.

    Raises:
        LinscoreError: for any input that cannot be used.
    """
    source = Text(text, dataset, DATASET_TOKENS if tokens is None and dataset is not None else tokens)
    source.check()
    of_text = {"--tokens": tokens, "--window": window, "--stride": stride}
    _check(models, text, {**of_text, "--batch-size": batch_size, "--limit": limit})
    if tasks is not None and text is None and dataset is None:
        _refuse(of_text, "a text", "--text or --dataset")
    of_tasks = {"--task-data": task_data or None, "--include-path": include_path, "--limit": limit}
    if tasks is None:
        _refuse(of_tasks, "tasks", "--tasks")
    forms = [_form(model) for model in models]
    for model in models:  # before the first of them takes its time
        _check_window(model, read_context(model), window)
    loaded = None
    if tasks is not None:
        loaded = load_tasks(_names(tasks), task_data=_files(task_data), include_path=include_path)
    predicted = source if tasks is None or text is not None or dataset is not None else None
    options = _Options(predicted, loaded, window, stride, batch_size, limit, dtype, device)
    return [_evaluate(model, form, options) for model, form in zip(models, forms, strict=True)]


def _check(models: Sequence[str], text: str | None, counts: Mapping[str, int | None]) -> None:
    if text == "-" and len(models) > 1:
        raise LinscoreError("--text - can be read only once: give a file to evaluate several models")
    for option, value in counts.items():
        if value is not None and value < 1:
            raise LinscoreError(f"{option} is {value}: give 1 or more")


def _refuse(options: Mapping[str, object], of: str, missing: str) -> None:
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise LinscoreError(f"{', '.join(given)} belongs to {of}: give {missing} too, or leave it out")


def _names(tasks: str) -> list[str]:
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise LinscoreError("--tasks is empty: name tasks, such as arc_easy,boolq")
    return names


def _files(task_data: Sequence[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in task_data]
    for name, equals, file in pairs:
        if not (name and equals and file):
            raise LinscoreError(f"--task-data {name + equals + file!r} is not NAME=FILE: write boolq=boolq_dev.jsonl")
    return {name: file for name, _, file in pairs}


def _form(model: str) -> str:
    """What was done to the model, by the record beside its weights."""
    if not (Path(model) / RECORD).is_file():
        return "original"
    record = Record.load(model)
    if record.distilled is not None:
        return "distilled"
    return " + ".join(_FORMS[form] for form in sorted({one.form for one in record.replacements}))


def _evaluate(name: str, form: str, options: _Options) -> Evaluation:
    """One model, loaded and let go again."""
    begin = time.perf_counter()
    where = choose_device(options.device)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    loaded = load_pretrained(name, dtype=options.dtype, device=options.device)
    window, stride = _window(loaded, options)
    batch_size = options.batch_size or max(1, BATCH_TOKENS[where.type] // window)
    figures: dict[str, Any] = {}
    if options.text is not None:
        loss = _text_loss(loaded, options.text, window, stride, batch_size)
        figures |= {"text": str(options.text), "window": window, "stride": stride, **_figures(loss)}
    if options.tasks is not None:
        figures["tasks"] = run_tasks(
            loaded.model, loaded.tokenizer, options.tasks, batch_size=batch_size, limit=options.limit
        )
    figures |= _memory(loaded.model)
    del loaded
    gc.collect()
    if where.type == "cuda":
        torch.cuda.empty_cache()
    return Evaluation(model=name, form=form, **figures, seconds=time.perf_counter() - begin)


def _check_window(model: str, context: int, window: int | None) -> None:
    if window is not None and 0 < context < window:
        raise LinscoreError(f"--window {window} is longer than the context of {model}, {context} tokens: give less")


def _window(loaded: Pretrained, options: _Options) -> tuple[int, int]:
    window = options.window if options.window is not None else min(loaded.context or LONGEST, LONGEST)
    return window, options.stride if options.stride is not None else max(1, window // 2)


def _text_loss(loaded: Pretrained, text: Text, window: int, stride: int, batch_size: int) -> TextLoss:
    with torch.no_grad():
        next_token_losses(loaded.model, torch.zeros(1, min(window, WARM_UP) + 1, dtype=torch.long))
    with TokenProgress(text.expected_tokens(loaded.tokenizer), "evaluating") as progress:
        return text_loss(
            loaded.model,
            loaded.tokenizer,
            text.documents(),
            window=window,
            stride=stride,
            batch_size=batch_size,
            tokens=text.tokens,
            progress=progress.advance,
        )


def _figures(loss: TextLoss) -> dict[str, Any]:
    return {
        "tokens": loss.tokens,
        "bytes": loss.bytes,
        "loss": loss.nats_per_token,
        "perplexity": loss.perplexity,
        "bits_per_byte": loss.bits_per_byte,
        "tokens_per_second": loss.tokens / loss.seconds,
    }


def _memory(model: PreTrainedModel) -> dict[str, Any]:
    tensors = [*model.parameters(), *model.buffers()]
    on_gpu = model.device.type == "cuda"
    return {
        "parameters": model.num_parameters(),
        "weights_mib": sum(tensor.nbytes for tensor in tensors) / MIB,
        "peak_mib": torch.cuda.max_memory_allocated(model.device) / MIB if on_gpu else None,
    }
