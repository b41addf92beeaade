"""The job of `linscore evaluate`: models side by side, by what they cost and how well they predict and answer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from linscore.errors import LinscoreError, at_least, one_of
from linscore.evaluation.perplexity import TextLoss, next_token_losses, text_loss
from linscore.evaluation.result import Evaluation
from linscore.evaluation.suites import SUITES, Chosen, chosen, with_retained
from linscore.evaluation.tasks import LoadedTasks, load_tasks, run_tasks
from linscore.jobs.passes import Windows, windows
from linscore.jobs.together import share
from linscore.machine.device import choose_device
from linscore.machine.processes import Processes
from linscore.models.load import Pretrained, load_pretrained, read_context
from linscore.models.release import release
from linscore.options.cut import EvaluateOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.progress import TokenProgress
from linscore.surgery.record import RECORD, Record
from linscore.text.source import Text, within_context

__all__ = ["run_evaluate"]

WARM_UP = 128  # tokens: first calls choose kernels and reserve memory
MIB = 2**20
_FORMS = {"dropped": "dropped", "fused": "fused", "linear": "linearized"}


@dataclass(frozen=True)
class _Job:
    """What every model of a run is asked for."""

    text: Text | None
    chosen: Chosen
    tasks: LoadedTasks | None
    window: int | None
    stride: int | None
    batch_size: int | None
    limit: int | None
    place: PlaceOptions
    processes: Processes


def run_evaluate(
    models: Sequence[str],
    *,
    text: TextOptions | None = None,
    evaluating: EvaluateOptions | None = None,
    place: PlaceOptions | None = None,
) -> list[Evaluation]:
    """Evaluate models, Hub names, folders or "embedded", one after the other.

    Where neither a text nor tasks or a suite are given, on the built-in text. `task_data` are "NAME=FILE" each. Several
    processes (torchrun) share the text, the first answers the tasks, and all return the same.

    Raises:
        LinscoreError: for any input that cannot be used.
    """
    text, asked, place = text or TextOptions(), evaluating or EvaluateOptions(), place or PlaceOptions()
    _check(models, text, asked)
    forms = [_form(model) for model in models]
    for model in models:  # before the first of them takes its time
        context = read_context(model, trust_remote_code=place.trust_remote_code)
        within_context("window", asked.window, context, of=model)
    asked_for = _chosen(asked)
    loaded = _tasks(asked_for, asked)
    predicted = Text(text) if loaded is None or text.given else None
    processes = share(place, Text(text).source)
    about = (asked.window, asked.stride, text.batch_size, asked.limit, place, processes)
    job = _Job(predicted, asked_for, loaded, *about)
    found = [_evaluate(model, form, job) for model, form in zip(models, forms, strict=True)]
    suite = asked_for.suite
    return found if suite is None else with_retained(suite, found, [_origin(model) for model in models])


def _check(models: Sequence[str], text: TextOptions, asked: EvaluateOptions) -> None:
    """What can be found out before any model or task is loaded."""
    source = Text(text).source
    source.check()
    if len(models) > 1:
        source.check_read_again(" to evaluate several models")
    of_text = {"tokens": text.tokens, "window": asked.window, "stride": asked.stride}
    for what, value in {**of_text, "batch_size": text.batch_size, "limit": asked.limit}.items():
        at_least(what, value, 1)
    if asked.suite is not None:
        one_of("suite", asked.suite, SUITES)
        if asked.tasks is not None:
            both = f"{asked.suite},{asked.tasks}"
            raise LinscoreError(f"`suite` and `tasks` are both given: name the suite among the tasks, `tasks={both}`")
    with_tasks = asked.tasks is not None or asked.suite is not None
    if with_tasks and not text.given:
        _refuse(of_text, "a text", "`text` or `dataset`")
    if not with_tasks:
        of_tasks = {"task_data": asked.task_data or None, "include_path": asked.include_path, "limit": asked.limit}
        _refuse(of_tasks, "tasks", "`tasks` or `suite`")


def _refuse(arguments: Mapping[str, object], of: str, missing: str) -> None:
    given = [f"`{name}`" for name, value in arguments.items() if value is not None]
    if given:
        raise LinscoreError(f"{', '.join(given)} belongs to {of}: give {missing} too, or leave it out")


def _chosen(asked: EvaluateOptions) -> Chosen:
    """The tasks that are asked for: a suite is a name that stands for several."""
    if asked.suite is not None:
        return chosen([asked.suite])
    names = [name.strip() for name in (asked.tasks or "").split(",") if name.strip()]
    if not names and asked.tasks is not None:
        raise LinscoreError("`tasks` is empty: name tasks, such as arc_easy,boolq")
    return chosen(names)


def _tasks(asked_for: Chosen, asked: EvaluateOptions) -> LoadedTasks | None:
    """These tasks, with their data."""
    if not asked_for.names:
        return None
    data = _files(asked.task_data)
    return load_tasks(asked_for.names, task_data=data, include_path=asked.include_path, shots=asked_for.shots)


def _files(task_data: Sequence[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in task_data]
    for name, equals, file in pairs:
        if not (name and equals and file):
            raise LinscoreError(f"`task_data` {name + equals + file!r} is not NAME=FILE: write boolq=boolq_dev.jsonl")
    return {name: file for name, _, file in pairs}


def _form(model: str) -> str:
    """What was done to the model, by the record beside its weights."""
    if not (Path(model) / RECORD).is_file():
        return "original"
    record = Record.load(model)
    if record.distilled is not None:
        return "distilled"
    return " + ".join(_FORMS[form] for form in sorted({one.form for one in record.replacements}))


def _origin(model: str) -> str | None:
    """What the model was cut from, by the same record."""
    return Record.load(model).model if (Path(model) / RECORD).is_file() else None


def _evaluate(name: str, form: str, job: _Job) -> Evaluation:
    """One model, loaded and let go again."""
    begin = time.perf_counter()
    where = choose_device(job.place.device)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    loaded = load_pretrained(name, **asdict(job.place))
    cut = windows(loaded, job.window, job.stride, job.batch_size)
    figures: dict[str, Any] = {}
    if job.text is not None:
        loss = _text_loss(loaded, job.text, cut, job.processes)
        figures |= {"text": str(job.text), "window": cut["window"], "stride": cut["stride"], **_figures(loss)}
    if job.tasks is not None:
        rows = cut["batch_size"]
        tasks = partial(run_tasks, loaded.model, loaded.tokenizer, job.tasks, batch_size=rows, limit=job.limit)
        answers = job.processes.from_first(tasks() if job.processes.first else None) or {}
        figures["tasks"] = job.chosen.results(answers, job.tasks.get("group_map", {}))
    figures |= _memory(loaded.model)
    del loaded
    release()
    return Evaluation(model=name, form=form, **figures, seconds=time.perf_counter() - begin)


def _text_loss(loaded: Pretrained, text: Text, cut: Windows, processes: Processes) -> TextLoss:
    with torch.no_grad():
        next_token_losses(loaded.model, torch.zeros(1, min(cut["window"], WARM_UP) + 1, dtype=torch.long))
    documents, ahead = text.documents(loaded.model.device)
    with TokenProgress(text.expected_tokens(loaded.tokenizer), "evaluating") as progress:
        return text_loss(
            loaded.model,
            loaded.tokenizer,
            documents,
            **cut,
            tokens=text.tokens,
            progress=progress.advance,
            processes=processes,
            ahead=ahead,
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
