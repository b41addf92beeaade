"""A hundred kills at random moments: is anything lost that was there, and does what goes on become the unbroken run?

    python -m benchmarks.studies.kills [--kills 100] [--seed 0]

Every command that writes runs on tiny models in a process of its own, forked from one that has imported all, because
imports take longer than the runs. It is ended by SIGKILL, SIGTERM or SIGINT at a moment drawn between its first and its
last, and then given once more, with --resume where it has that. A table says for each command how often files that were
there had changed, the second run failed, its result differed from the unbroken one in a bit (but for times and the id
of a run), or something was left behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import click
import torch
import yaml

from linscore.embedded.shipped import EMBEDDED_MODEL, EMBEDDED_TEXT

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CODES = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
OF_A_RUN = ("seconds", "run", "tokens_per_second")  # what differs between two runs of the same
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXT = ("--text", "text.txt", "--device", "cpu")
RECIPE = {
    "model": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "text": "text.txt",
    "seq_len": 32,
    "batch_size": 4,
    "steps": 12,
    "learning_rate": 3e-3,
    "warmup": 2,
    "heldout_tokens": 2000,
    "log_every": 2,
    "save_every": 4,
    "score_every": 6,
}
COMMANDS = {
    "score": (
        "score",
        "model",
        *TEXT,
        "--seq-len",
        "32",
        "--batch-size",
        "8",
        "--for",
        "spans",
        "--save-tokens",
        "600",
    ),
    "prune": ("prune", "model", "--drop", "1,"),
    "linearize": ("linearize", "model", "--replace", "1,", "--moments", "moments"),
    "fuse": ("fuse", "model", "--drop", "1,", "--moments", "moments"),
    "distil": ("distil", "cut", *TEXT, "--steps", "8", "--batch-size", "2", "--seq-len", "16", "--save-every", "2"),
    "train": ("train", "--config", "recipe.yaml", "--device", "cpu"),
    "dynamics": ("dynamics", "series", *TEXT, "--seq-len", "32"),
}


@dataclass
class Outcome:
    """What became of the kills of one command."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys((one.name for one in SIGNALS), 0))
    late: int = 0  # it had ended before
    faults: list[str] = field(default_factory=list)

    def row(self, command: str) -> str:
        """A line of the table."""
        cells = (command, sum(self.kills.values()), *self.kills.values(), self.late, len(self.faults))
        return f"| {' | '.join(map(str, cells))} |"


def preload(commands: Collection[str]) -> None:
    """Import what children need, on one thread: a fork has only the one that calls it."""
    torch.set_num_threads(1)
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    import_module("matplotlib.pyplot")
    for command in commands:
        import_module(f"linscore.jobs.{command}")


def started(place: Path, run: Callable[[], None], said: Path) -> int:
    """The number of a child that does `run` in `place`, which writes to `said` what it says."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.chdir(place)
        log = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        sys.stdout, sys.stderr = (open(stream, "w", encoding="utf-8", closefd=False) for stream in (1, 2))  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def ended(child: int) -> int:
    """Its exit code; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def linscore(place: Path, *options: str) -> int:
    """Start `linscore OPTIONS`; it is given back once signals are the command line's own."""
    reader, writer = os.pipe()

    def run() -> None:
        (entry,) = entry_points(group="console_scripts", name="linscore")  # what a user calls
        cli = import_module(entry.module)
        begin = cli.cli.main
        cli.cli.main = lambda *args, **kwargs: (os.close(writer), begin(*args, **kwargs))
        sys.argv = ["linscore", *options]
        cli.main()

    child = started(place, run, place.parent / f"{place.name}.said")
    os.close(writer)
    os.read(reader, 1)  # until the child has closed its end
    os.close(reader)
    return child


def prepared(place: Path, commands: Collection[str]) -> None:
    """Models, checkpoints and a text, as files, in a child: tokenizers and products start threads."""

    def write() -> None:
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL, trust_remote_code=False)
        for number, name in enumerate(("model", "series/checkpoint-1", "series/checkpoint-2", "series/checkpoint-3")):
            torch.manual_seed(number)
            LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=len(tokenizer))).save_pretrained(place / name)
            tokenizer.save_pretrained(place / name)
        (place / "text.txt").write_text((EMBEDDED_TEXT / "heapq.py.txt").read_text())
        (place / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))

    place.mkdir()
    first = []
    if {"linearize", "fuse", "distil"} & set(commands):
        first.append(("score", "model", *TEXT, "--for", "spans,fuse", "--out", "moments"))
    if "distil" in commands:
        first.append(("linearize", "model", "--replace", "1,", "--moments", "moments", "--out", "cut"))
    codes = [ended(started(place, write, place.parent / "said")), *(ended(linscore(place, *one)) for one in first)]
    assert not any(codes), (codes, (place.parent / "said").read_text())


def content(folder: Path) -> dict[str, str]:
    """A digest of every file but locks."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def result(folder: Path) -> dict[str, object]:
    """What of a result is the same in every run of the same command."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.name == "trainer_state.json":  # which holds times
            continue
        if path.suffix == ".json":
            found[str(inside)] = _plain(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            found[str(inside)] = [_plain(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.name == "moments.safetensors":
            from safetensors.numpy import load

            found[str(inside)] = {name: value.tobytes() for name, value in load(path.read_bytes()).items()}
        elif path.suffix == ".safetensors":
            found[str(inside)] = path.read_bytes()
    return found


def _plain(data: object) -> object:
    return {key: value for key, value in data.items() if key not in OF_A_RUN} if isinstance(data, dict) else data


def goes_on(place: Path, command: str) -> tuple[str, ...] | None:
    """The same command once more; None where its result is there."""
    options = (*COMMANDS[command], "--out", "out")
    done = {"score": None, "dynamics": None, "train": place / "out" / "model"}.get(command, place / "out")
    if done is not None and done.exists():
        return None
    begun = {
        "score": place / "out" / "scoring" / "position.json",
        "train": place / "out" / "settings.json",
        "distil": place / "out.training",
    }.get(command)
    return (*options, "--resume") if begun is not None and begun.exists() else options


def killed(inputs: Path, place: Path, command: str, after: float, number: signal.Signals, whole: Path) -> list[str]:
    """The faults of one kill after so many seconds; "late" where the command had ended before."""
    shutil.copytree(inputs, place, copy_function=os.link)
    before = content(place)
    if command == "score":  # into a result of the same model and text
        shutil.copytree(whole / "out", place / "out")
    child = linscore(place, *COMMANDS[command], "--out", "out")
    time.sleep(after)
    os.kill(child, number)
    code = ended(child)
    said = (place.parent / f"{place.name}.said").read_text()
    faults = [] if code in (0, CODES[number]) else [f"code {code} after {number.name}: {said[-300:]}"]
    if code not in (0, -9) and (not said.startswith("linscore: ") or said.count("\n") != 1):
        faults += [f"{number.name} said: {said[-300:]}"] if "linscore: interrupted" not in said else []
    kept = content(place)
    faults += [f"lost or changed: {name}" for name, digest in before.items() if kept.get(name) != digest]
    if command == "score":
        from linscore.scoring.report import Report

        Report.load(place / "out")
    again = goes_on(place, command)
    code_again = 0 if again is None else ended(linscore(place, *again))
    if code_again:
        faults.append(f"again: code {code_again}: {(place.parent / f'{place.name}.said').read_text()[-300:]}")
    else:
        found, wanted = result(place / "out"), result(whole / "out")
        other = sorted(name for name in found | wanted if found.get(name) != wanted.get(name))
        faults += [f"another result after {number.name} at {after:.3f} s: {', '.join(other)}"] * bool(other)
    left = [str(path.relative_to(place)) for path in place.rglob(".*") if again is not None]
    faults += [f"left behind: {name}" for name in left]
    return [*faults, "late"] if code == 0 else faults


def study(kills: int, seed: int, commands: tuple[str, ...] = tuple(COMMANDS)) -> dict[str, Outcome]:
    """Kill every command about as often, by each signal in turn."""
    preload(commands)
    chance, outcomes = random.Random(seed), {command: Outcome() for command in commands}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepared(root / "inputs", commands)
        seconds = {}
        for command in commands:
            whole = shutil.copytree(root / "inputs", root / command)
            begun = time.perf_counter()
            code = ended(linscore(whole, *COMMANDS[command], "--out", "out"))
            seconds[command] = time.perf_counter() - begun
            assert code == 0, (root / f"{command}.said").read_text()
        for turn in range(kills):
            command, number = commands[turn % len(commands)], SIGNALS[turn // len(commands) % len(SIGNALS)]
            outcome, late = outcomes[command], True
            while late:  # what has ended before its signal says nothing of kills: once more, and sooner
                after, place = chance.uniform(0, seconds[command]), root / f"kill-{turn}"
                faults = killed(root / "inputs", place, command, after, number, root / command)
                late = "late" in faults
                outcome.late += late
                outcome.faults += [fault for fault in faults if fault != "late"]
                seconds[command] = after if late else seconds[command]
                shutil.rmtree(place)
            outcome.kills[number.name] += 1
    return outcomes


@click.command()
@click.option("--kills", default=100, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(kills: int, seed: int) -> None:
    """Print the table, and every fault; exit code 1 where there is one."""
    begun = time.perf_counter()
    outcomes = study(kills, seed)
    print(f"| command | kills | {' | '.join(one.name for one in SIGNALS)} | ended before | faults |")
    print("|---|---|---|---|---|---|---|")
    for command, outcome in outcomes.items():
        print(outcome.row(command))
    faults = [f"{command}: {fault}" for command, outcome in outcomes.items() for fault in outcome.faults]
    print(*faults, f"{kills} kills in {(time.perf_counter() - begun) / 60:.1f} minutes", sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
