"""Processes of `linscore`, forked from a server that has imported what they need: imports take longer than the runs."""

import multiprocessing
import os
import signal
import sys
from importlib.metadata import entry_points

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

FORKED = "forkserver"
multiprocessing.set_forkserver_preload(["linscore.cli.training", "linscore.jobs.train"])


def command_line(*options: str) -> None:
    """What the console script does, and torchrun behind it."""
    torch.set_num_threads(1)
    sys.argv = ["linscore", *options]
    entry_points(group="console_scripts", name="linscore")["linscore"].load()()


def by_torchrun(processes: int, *options: object) -> None:
    """`torchrun --standalone --nproc-per-node PROCESSES --no-python linscore OPTIONS`, by torchrun's own agent."""
    config = LaunchConfig(1, 1, processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method=FORKED)
    config.run_id, config.max_restarts = "test", 0
    elastic_launch(config, command_line)(*map(str, options))


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
