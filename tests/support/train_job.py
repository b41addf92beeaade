"""`linscore train` on a tiny recipe, and what a run of it leaves."""

import json

import torch
from safetensors.torch import load_file

from linscore.dynamics.series import Dynamics
from linscore.embedded.shipped import EMBEDDED_TEXT
from linscore.pretraining.trainer import PretrainingTrainer

TINY = {
    "model": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "text": str(EMBEDDED_TEXT / "shelve.py.txt"),
    "seq_len": 32,
    "batch_size": 4,
    "steps": 12,
    "learning_rate": 3e-3,
    "warmup": 2,
    "heldout_tokens": 2000,
    "log_every": 2,
    "save_every": 5,
    "score_every": 6,
    "keep": None,
}


def long_text(folder):
    """Long enough for a hundredth of it to be held out."""
    path = folder / "text.txt"
    path.write_text((EMBEDDED_TEXT / "heapq.py.txt").read_text(encoding="utf-8"), encoding="utf-8")
    return str(path)


def curve(folder):
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in lines]


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_run(one, other):
    assert curve(one) == curve(other)
    assert (
        Dynamics.load(one / "linearity" / "dynamics.json").to_dict()["blocks"]
        == (Dynamics.load(other / "linearity" / "dynamics.json").to_dict()["blocks"])
    )
    ours, theirs = weights(one / "model"), weights(other / "model")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def broken_at(monkeypatch, step, error):
    """From now on the training of `step` ends in `error`."""
    original = PretrainingTrainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step + 1 == step:
            raise error
        return original(self, *args, **kwargs)

    monkeypatch.setattr(PretrainingTrainer, "training_step", training_step)
