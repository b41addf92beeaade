"""Processes of `linscore`, forked from a server that has imported what they need: imports take longer than the runs."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

FORKED = "forkserver"
multiprocessing.set_forkserver_preload(["linscore.jobs.train", "linscore.jobs.score", "linscore.jobs.evaluate"])


def command_line(*options: str) -> None:
    """What the console script does, and torchrun behind it."""
    torch.set_num_threads(1)
    sys.argv = ["linscore", *options]
    entry_points(group="console_scripts", name="linscore")["linscore"].load()()


def together(processes: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """What `work` gives in each of several processes of one machine, by torchrun's own agent."""
    config = LaunchConfig(1, 1, processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method=FORKED)
    config.run_id, config.max_restarts = "test", 0
    before = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    }
    try:
        found = elastic_launch(config, work)(*args)
    finally:
        for number, handler in before.items():  # the agent leaves its own in this process
            signal.signal(number, handler)
    return [found[number] for number in range(processes)]


def by_torchrun(processes: int, *options: object) -> None:
    """`torchrun --standalone --nproc-per-node PROCESSES -m linscore OPTIONS`."""
    together(processes, command_line, *map(str, options))


def heard(folder: str, killed: int | None, *options: str) -> None:
    """For one of several processes: `linscore OPTIONS`, what it says in the file `folder`/NUMBER.

    The kernel kills the one of number `killed` at its fourth batch; those that are left wait a moment for a word of it.
    """
    from linscore.machine import heartbeat
    from linscore.scoring.collect import Collector

    heartbeat.BEAT, heartbeat.HUSH = 0.05, 0.3
    add, ran = Collector.add_parts, []

    def add_parts(self: Collector, parts: Any, *_: Any) -> int:
        ran.append(parts)
        if os.environ["RANK"] == str(killed) and len(ran) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return add(self, parts)

    Collector.add_parts = add_parts  # type: ignore[method-assign]
    with Path(folder, os.environ["RANK"]).open("w", encoding="utf-8", buffering=1) as said:
        sys.stdout = sys.stderr = said
        command_line(*options)


def killed_in_training(step: int, *options: object) -> int:
    """The exit code of `linscore OPTIONS`, which the kernel kills when it trains `step`."""
    process = multiprocessing.get_context(FORKED).Process(target=_killed, args=(step, *map(str, options)))
    process.start()
    process.join()
    return process.exitcode


def _killed(step: int, *options: str) -> None:
    from linscore.pretraining.trainer import PretrainingTrainer

    original = PretrainingTrainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step + 1 == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **kwargs)

    PretrainingTrainer.training_step = training_step
    command_line(*options)
