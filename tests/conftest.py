"""What several files of tests share.

Without a GPU the Triton kernels run in Triton's interpreter, which must be chosen before Triton is imported.
"""

import gc
import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items):
    """Files with slow tests first: a process that is left with one at the end would keep the others waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """Let the collector pass over what imports have made: a million objects, which each full collection would walk."""
    gc.collect()
    gc.freeze()


def pytest_sessionstart():
    """A kernel's test is half as long."""
    if "TRITON_INTERPRET" in os.environ and importlib.util.find_spec("triton"):
        from quick_interpreter import hurry

        hurry()


@pytest.fixture(scope="module")
def one_thread():
    """Tensors of a few kilobytes: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def _each_kind_of_picture_is_drawn_once():
    """Drawing takes longer than scoring a tiny model: the file of a later one is that of the first with its axes."""
    if importlib.util.find_spec("matplotlib") is None:
        yield
        return
    from matplotlib.figure import Figure

    draw, drawn = Figure.savefig, {}

    def savefig(self, path, **options):
        kind = options.get("format"), *(axes.get_ylabel() for axes in self.axes)
        if kind in drawn:
            Path(path).write_bytes(drawn[kind])
        else:
            draw(self, path, **options)
            drawn[kind] = Path(path).read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        yield


@pytest.fixture(scope="session")
def full():
    """A report with everything in it that a page draws."""
    from tiny_models import tiny

    import linscore

    model = tiny("llama")
    ids = torch.randint(3, model.config.vocab_size, (24, 32), generator=torch.Generator().manual_seed(0))
    spans = [linscore.Span(0, 1), linscore.Span(1, 2)]
    return linscore.score(model, ids.split(4), name="tiny", spans=spans, sub_blocks=True, folds=3)


@pytest.fixture
def run(monkeypatch, capsys):
    """Call the command line as `linscore ARGS`: (exit code, standard output, standard error)."""
    from linscore import cli, progress

    monkeypatch.setattr(progress, "EVERY", float("inf"))  # seconds: what a busy machine says meanwhile

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["linscore", *map(str, args)])
        capsys.readouterr()  # what the test's own preparations printed
        code: int | str | None = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        out = capsys.readouterr()
        return int(code or 0), out.out, out.err

    return call
