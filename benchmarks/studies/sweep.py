"""Every class that transformers maps to a causal language model: what of linscore is right for it, and what is refused.

    python -m benchmarks.studies.sweep                      # all of them, and docs/decoders.md from what was seen
    python -m benchmarks.studies.sweep jamba zamba2         # some, by model type; nothing is written

A model of each is built with tiny random weights (`sweep_models`) in a process of its own, with limits of time and
memory, so that one crash ends nothing else. Each answer is "right", "refused" with the reason, "WRONG" or "CRASH".
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

import linscore
from benchmarks.studies import sweep_models
from benchmarks.studies.sweep_stream import check_stream

TABLE = Path(__file__).parents[2] / "docs/decoders.md"
HEAD = """# Decoders

What is right for each class that transformers maps to a causal language model, and what is refused. Written by
`make sweep` ({date}, {versions}); every model is tiny and random.
*score*: every block's two scores against least squares in float64 on states that were read otherwise. *drop*: logits
are those of the model with the block idle, and again once saved and loaded. *left*, *right*: scores of padded rows are
those of the rows alone. *stream*: states of blocks that run one at a time (`--placement stream`) are the same bits.
A number is that of a reason below.

Right: {counts} of {classes} classes. Wrong or crashed: {wrong}.

| class | score | drop | left | right | stream |
|---|---|---|---|---|---|
{rows}

{notes}
"""
SECONDS, BYTES = 120, 6 << 30
TOLERANCE = 2e-4


def states_around(model: nn.Module, path: str, inputs: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """x and y of every block in float64, all tokens of all inputs as rows; read by wrapping each block's `forward`."""
    blocks: Any = model.get_submodule(path)
    rows: list[list[tuple[Tensor, Tensor]]] = [[] for _ in blocks]

    def recording(forward: Callable[..., Any], seen: list[tuple[Tensor, Tensor]]) -> Callable[..., Any]:
        def record(*args: Any, **kwargs: Any) -> Any:
            x = (args[0] if args else kwargs["hidden_states"]).clone()
            output = forward(*args, **kwargs)
            y = output if isinstance(output, Tensor) else output[0]
            seen.append((x.double().flatten(0, -2), y.double().flatten(0, -2)))
            return output

        return record

    for block, seen in zip(blocks, rows, strict=True):
        block.forward = recording(block.forward, seen)
    try:
        with torch.no_grad():
            for ids in inputs:
                model(input_ids=ids, use_cache=False)
    finally:
        for block in blocks:
            del block.forward
    return [tuple(torch.cat(parts) for parts in zip(*seen, strict=True)) for seen in rows]  # type: ignore[misc]


def linearity(x: Tensor, target: Tensor) -> float:
    """1 − RSS/t of the least-squares fit, float64; a direction that float32 only rounds into is none."""
    x, target = x - x.mean(0), target - target.mean(0)
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    u = u[:, s > 1e-6 * s[0]]
    return float((u.T @ target).square().sum() / target.square().sum())


@contextmanager
def idle(model: nn.Module, path: str, index: int) -> Any:
    """One block hands on what it is given."""
    block: Any = model.get_submodule(path)[index]
    forward = block.forward

    def hand_on(*args: Any, **kwargs: Any) -> Any:
        kept = (args[0] if args else kwargs["hidden_states"]).clone()
        output = forward(*args, **kwargs)
        return kept if isinstance(output, Tensor) else (kept, *output[1:])

    block.forward = hand_on
    try:
        yield
    finally:
        del block.forward


def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()


def padded(rows: list[Tensor], side: str) -> dict[str, Tensor]:
    longest = max(row.shape[1] for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        at = slice(longest - row.shape[1], None) if side == "left" else slice(row.shape[1])
        ids[index, at], mask[index, at] = row[0], 1
    return {"input_ids": ids, "attention_mask": mask}


def compare(report: Any, states: list[tuple[Tensor, Tensor]]) -> str:
    """ "right", or which figure is off by how much."""
    if len(report.blocks) != len(states) or report.tokens != len(states[0][0]):
        return (
            f"WRONG: {len(report.blocks)} blocks, {report.tokens} tokens; {len(states)}, {len(states[0][0])} expected"
        )
    worst = 0.0
    for block, (x, y) in zip(report.blocks, states, strict=True):
        for found, expected in (
            (block.linearity, linearity(x, y)),
            (block.linearity_no_residual, linearity(x, y - x)),
            (block.delta_ratio if hasattr(block, "delta_ratio") else None, None),
        ):
            if expected is not None:
                worst = max(worst, abs(found - expected))
    return "right" if worst < TOLERANCE else f"WRONG: off by {worst:.1e}"


def check_score(model: PreTrainedModel, path: str) -> str:
    ids = [torch.cat([row[:, :9] for row in sweep_models.rows_of_text()])]
    report = linscore.score(model, ids, folds=1, spectra=False)
    return compare(report, states_around(model, path, ids)) + hidden_states(model, path, ids[0])


def hidden_states(model: PreTrainedModel, path: str, ids: Tensor) -> str:
    """A remark where transformers' own record of what enters each block says something else."""
    with torch.no_grad():
        recorded = getattr(model(input_ids=ids, use_cache=False, output_hidden_states=True), "hidden_states", None)
    states = states_around(model, path, [ids])
    if recorded is None or len(recorded) != len(states) + 1:
        return ""
    off = [
        i for i, (x, _) in enumerate(states) if not torch.allclose(recorded[i].double().flatten(0, -2), x, atol=1e-5)
    ]
    return f" (transformers' hidden_states are not what enters blocks {off})" if off else ""


def check_drop(model: PreTrainedModel, _path: str) -> str:
    """Block 1 dropped; another one where an index, or what is left, decides what a block is."""
    answers = [answer_of(partial(dropped, index=index), model) for index in (1, sweep_models.DEPTH - 1, 0)]
    answer = next((answer for answer in answers if not answer.startswith("refused")), answers[0])
    return answer if answer == answers[0] else f"{answer}, but block 1 {answers[0]}"


def dropped(model: PreTrainedModel, path: str, index: int) -> str:
    ids = torch.cat([row[:, :9] for row in sweep_models.rows_of_text()])[:4]
    cut = linscore.drop(model, [index])
    with idle(model, path, index):
        expected = logits_of(model, ids)
    found = logits_of(cut, ids)
    if not torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max())):
        return f"WRONG: logits differ by {float((found - expected).abs().max()):.1e}"
    with tempfile.TemporaryDirectory() as folder:
        cut.save_pretrained(folder)
        again = type(cut).from_pretrained(folder, trust_remote_code=False).eval()
    off = float((logits_of(again, ids) - found).abs().max())
    return "right" if off <= 1e-5 * float(expected.abs().max()) else f"WRONG: reloaded logits differ by {off:.1e}"


def check_padding(side: str) -> Callable[[PreTrainedModel, str], str]:
    def check(model: PreTrainedModel, path: str) -> str:
        rows = sweep_models.rows_of_text()
        report = linscore.score(model, [padded(rows, side)], folds=1, spectra=False)
        return compare(report, states_around(model, path, rows))

    return check


CHECKS = {
    "score": check_score,
    "drop": check_drop,
    "left": check_padding("left"),
    "right": check_padding("right"),
    "stream": check_stream,
}


def examine(model_type: str, name: str) -> dict[str, str]:
    try:
        model = sweep_models.tiny(model_type, name)
    except Exception as error:
        return {"built": f"{type(error).__name__}: {error}"}
    return {name: answer_of(check, model) for name, check in CHECKS.items()}


def answer_of(check: Callable[[PreTrainedModel, str], str], model: PreTrainedModel) -> str:
    """What one check says, whatever happens in it."""
    try:
        return check(model, linscore.find_decoder(model).path)
    except linscore.LinscoreError as error:
        return f"refused: {error}"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        inside = any(f"{os.sep}linscore{os.sep}" in frame.filename for frame in frames)
        return f"CRASH{'' if inside else ' of the oracle'}: {type(error).__name__}: {error}"


def in_a_process(model_type: str, name: str) -> dict[str, str]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
        signal.alarm(SECONDS)
        with os.fdopen(writer, "w") as out:
            out.write(json.dumps(examine(model_type, name)))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        answer = answers.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(answer) if answer else {"score": f"CRASH: process ended by {status}"}


def main(wanted: list[str]) -> None:
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    found = {}
    for model_type, name in sweep_models.classes():
        if not wanted or model_type in wanted:
            found[name] = in_a_process(model_type, name)
            for check, answer in found[name].items():
                print(f"{name}  {check}  {' '.join(answer.split())[:300]}", flush=True)
    if not wanted:
        TABLE.write_text(table(found), encoding="utf-8")


def table(found: dict[str, dict[str, str]]) -> str:
    """The document: how many, every class, and every reason once."""
    reasons: list[str] = []
    rows = []
    for name, answers in found.items():
        cells = [_cell(answers.get(check, "not built"), reasons) for check in CHECKS]
        if "built" in answers:
            cells = [_cell(f"not built: {answers['built']}", reasons), *[""] * (len(CHECKS) - 1)]
        rows.append(f"| {name.removesuffix('ForCausalLM')} | {' | '.join(cells)} |")
    counts = (f"{check} {sum(a.get(check, '').startswith('right') for a in found.values())}" for check in CHECKS)
    wrong = sum(any(answer.startswith(("WRONG", "CRASH")) for answer in a.values()) for a in found.values())
    notes = "\n".join(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))
    return HEAD.format(
        classes=len(found),
        counts=", ".join(counts),
        wrong=wrong,
        date=time.strftime("%Y-%m-%d"),
        versions=f"transformers {transformers.__version__}, torch {torch.__version__}",
        rows="\n".join(rows),
        notes=notes,
    )


def _cell(answer: str, reasons: list[str]) -> str:
    """A word, and the number of the reason that comes with it."""
    word, _, reason = " ".join(answer.split()).partition(": ") if answer != "right" else ("right", "", "")
    if answer.startswith("right") and answer != "right":
        word, reason = "right", answer.removeprefix("right").strip(" ,").removeprefix("(").removesuffix(")")
    if not reason:
        return word
    reason = reason.split(" once the cut model is loaded again")[0][:240].replace("|", "/")
    if reason not in reasons:
        reasons.append(reason)
    return f"{word} ({reasons.index(reason) + 1})"


if __name__ == "__main__":
    main(sys.argv[1:])
