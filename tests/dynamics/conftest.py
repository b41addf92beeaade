"""A series of two checkpoints, which several files of tests read."""

import numpy as np
import pytest
from asked import asked
from series import SEQ_LEN, saved

from linscore.dynamics import folder as dynamics_folder
from linscore.jobs.dynamics import run_dynamics

run_dynamics = asked(run_dynamics)


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Two checkpoints in the Trainer's layout, the later one first in the alphabet."""
    folder = tmp_path_factory.mktemp("run")
    saved(folder / "checkpoint-9", 1)
    saved(folder / "checkpoint-10", 2)
    (folder / "checkpoint-11").mkdir()  # not finished: without a configuration
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    numbers = np.random.default_rng(0).integers(0, 1000, 120)
    path.write_text("\n".join(f"x{n} = {n} + y[{n % 7}]" for n in numbers))
    return str(path)


@pytest.fixture(scope="session")
def done(runs, text, tmp_path_factory):
    out = tmp_path_factory.mktemp("done") / "series"
    return out, run_dynamics([str(runs)], text=text, seq_len=SEQ_LEN, device="cpu", out=str(out))


@pytest.fixture
def no_picture(monkeypatch):
    """One picture is enough: it takes longer than scoring (`done` is made before this)."""
    monkeypatch.setattr(dynamics_folder, "plot_dynamics", lambda _dynamics, path: path.touch())
