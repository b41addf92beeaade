"""Scores that last: one that is killed a hundred times is the unbroken one; memory and sums over ten million tokens.

    python -m benchmarks.studies.lasting kills [--kills 100] [--seed 0]
    python -m benchmarks.studies.lasting tokens [--tokens 10000000]

`kills` sends SIGKILL to `linscore score` a hundred times, at random moments before and after its next save, and gives
the same command with --resume each time. `tokens` scores random ids on a decoder of width 16, interrupted and gone on
with nine times in this process, beside sums in float64 that hooks of its own take of the same states.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.studies.kills import ended, linscore, preload, prepared, result
from linscore.embedded.shipped import EMBEDDED_TEXT

SCORE = ("score", "model", "--text", "long.txt", "--device", "cpu", "--seq-len", "32", "--batch-size", "32")
SCORE += ("--for", "spans,fuse", "--out", "out")
ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT
TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VOCABULARY, ROWS, LENGTH = 64, 128, 64  # of a batch


@click.group()
def main() -> None:
    """Kill a score, or let it run long."""


@main.command()
@click.option("--kills", default=100, show_default=True)
@click.option("--seed", default=0, show_default=True)
def kills(kills: int, seed: int) -> None:
    """Kill one run so often, and compare its result with that of the unbroken one."""
    preload(["score"])
    chance, begun = random.Random(seed), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "place"
        prepared(place, ["score"])
        text = "".join(path.read_text() for path in sorted(EMBEDDED_TEXT.rglob("*.txt")))
        (place / "long.txt").write_text(text * 3)
        whole = shutil.copytree(place, Path(folder) / "whole")
        started = time.perf_counter()
        assert ended(linscore(whole, *SCORE)) == 0, (Path(folder) / "whole.said").read_text()
        seconds = time.perf_counter() - started
        every = _tokens(whole / "out") // (2 * kills)
        saved, unsaved = 0, 0
        while saved + unsaved < kills:
            before = _position(place)
            child = linscore(place, *SCORE, "--save-tokens", str(every), *(["--resume"] if before else []))
            _wait(place, before, child, chance.random() < 0.1)
            time.sleep(chance.uniform(0, seconds / kills))
            os.kill(child, signal.SIGKILL)
            code = ended(child)
            said = (place.parent / "place.said").read_text()
            assert code == -9, f"code {code} after {saved + unsaved} kills: {said[-500:]}"
            saved, unsaved = saved + (_position(place) != before), unsaved + (_position(place) == before)
        last = time.perf_counter()
        assert ended(linscore(place, *SCORE, "--resume")) == 0, (place.parent / "place.said").read_text()
        last = time.perf_counter() - last
        found, wanted = result(place / "out"), result(whole / "out")
        other = sorted(name for name in found | wanted if found.get(name) != wanted.get(name))
        left = [str(path.relative_to(place)) for path in (place / "out").rglob("*") if path.name not in found]
    print(
        f"{saved + unsaved} kills, {saved} after a new save: {'another result' if other or left else 'bitwise equal'}"
    )
    print(*other, *left, f"{seconds:.1f} s unbroken, {last:.1f} s the last call", sep="\n")
    print(f"{(time.perf_counter() - begun) / 60:.1f} minutes")
    sys.exit(bool(other or left))


def _tokens(folder: Path) -> int:
    from linscore.scoring.report import Report

    return Report.load(folder).tokens


def _position(place: Path) -> bytes:
    path = place / "out" / "scoring" / "position.json"
    return path.read_bytes() if path.exists() else b""


def _wait(place: Path, before: bytes, child: int, early: bool) -> None:
    """Until the child has saved once more, or has ended; not at all for one that is to be killed before."""
    while not early and _position(place) == before and os.waitid(os.P_PID, child, ENDED) is None:
        time.sleep(0.005)


@main.command()
@click.option("--tokens", default=10_000_000, show_default=True)
@click.option("--interruptions", default=9, show_default=True)
def tokens(tokens: int, interruptions: int) -> None:
    """Score so many random ids, and compare sums and scores with those of float64."""
    import linscore

    model = _model()
    sums = [Float64() for _ in range(TINY["num_hidden_layers"])]
    for block, one in zip(linscore.find_decoder(model).blocks, sums, strict=True):
        block.register_forward_hook(one.take, with_kwargs=True)
    count = tokens // (ROWS * LENGTH)
    memory: dict[int, int] = {}
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(interruptions + 1):
            stop = (turn + 1) * count // (interruptions + 1) if turn < interruptions else None
            progress = _Progress(stop, max(1, count // 10), memory)
            with suppress(KeyboardInterrupt) if stop else nullcontext():
                report = linscore.score(model, _batches(count), out=folder, resume=turn > 0, progress=progress)
    seconds = time.perf_counter() - begun
    drift = [abs(block.linearity - one.score()) for block, one in zip(report.blocks, sums, strict=True)]
    without = [
        abs(block.linearity_no_residual - one.score(residual=False))
        for block, one in zip(report.blocks, sums, strict=True)
    ]
    second = [one.drift(report.moments[f"block.{index}"]) for index, one in enumerate(sums)]
    print(f"{report.tokens:,} tokens in {seconds:.0f} s, {interruptions} interruptions")
    print(f"linearity off by {max(drift):.1e}, without residual {max(without):.1e}, Σxδᵀ and Σxxᵀ {max(second):.1e}")
    print("MiB at each tenth of the way:", *(f"{memory[at] / 2**20:.1f}" for at in sorted(memory)))


class Float64:
    """Σ(x, δ)(x, δ)ᵀ and Σ(x, δ) of one block, in float64, from a hook of its own."""

    def __init__(self) -> None:
        d = TINY["hidden_size"]
        self.n = 0
        self.sum, self.second = torch.zeros(2 * d).double(), torch.zeros(2 * d, 2 * d).double()

    def take(self, _block: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], out: Tensor) -> None:
        """Add a batch; what is tried on a few rows is none."""
        if len(out) == ROWS:
            x = (args[0] if args else kwargs["hidden_states"]).flatten(0, 1).double()
            both = torch.cat([x, out.flatten(0, 1).double() - x], 1)
            self.n, self.sum, self.second = self.n + len(x), self.sum + both.sum(0), self.second + both.T @ both

    def centred(self) -> np.ndarray:
        """C_xx and C_xδ above C_δx and C_δδ."""
        return (self.second - torch.outer(self.sum, self.sum) / self.n).numpy()

    def score(self, *, residual: bool = True) -> float:
        """1 − RSS over what is to be explained."""
        d, c = TINY["hidden_size"], self.centred()
        xx, xd, dd = c[:d, :d], c[:d, d:], c[d:, d:]
        rss = np.trace(dd - xd.T @ np.linalg.lstsq(xx, xd, rcond=None)[0])
        return float(1 - rss / (np.trace(xx + 2 * xd + dd) if residual else np.trace(dd)))

    def drift(self, moments: object) -> float:
        """The largest difference of a centred sum, as a share of the largest of its kind."""
        from linscore.statistics.centered import centered

        d, c = TINY["hidden_size"], self.centred()
        found = centered(moments, range(moments.folds))
        pairs = ((found.c_xx.numpy(), c[:d, :d]), (found.c_xd.numpy(), c[:d, d:]))
        return max(float(np.abs(mine - theirs).max() / np.abs(theirs).max()) for mine, theirs in pairs)


class _Progress:
    """Interrupts after `stop` batches, and notes the resident memory now and then."""

    def __init__(self, stop: int | None, every: int, memory: dict[int, int]) -> None:
        self._stop, self._every, self._memory, self._count = stop, every, memory, 0

    def __call__(self, _tokens: int) -> None:
        self._count += 1
        if self._count % self._every == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self._memory[self._count] = pages * os.sysconf("SC_PAGE_SIZE")
        if self._count == self._stop:
            raise KeyboardInterrupt


def _model() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TINY, vocab_size=VOCABULARY)).eval()


def _batches(count: int) -> Iterator[Tensor]:
    chance = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randint(VOCABULARY, (ROWS, LENGTH), generator=chance)


if __name__ == "__main__":
    main()
