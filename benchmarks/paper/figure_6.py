"""Figure 6: what cutting the most linear blocks costs Llama 2 7B: dropped, replaced, distilled."""

from __future__ import annotations

from typing import Any

from benchmarks.paper.claims import Claim, Part, Seen, beyond, paired, script
from benchmarks.paper.cuts import DISTILLED, DROPPED, LLAMA, REPLACED, TOLD, added, cut_runs, loss_runs
from benchmarks.paper.setting import Run, Setting

METHODS = (DROPPED, REPLACED, DISTILLED)


def model(at: Setting) -> str:
    """What is cut."""
    return LLAMA if at.full else "embedded"


def runs(at: Setting) -> list[Run]:
    """Cuts, and what they cost."""
    return [*cut_runs(at, model(at), METHODS), *loss_runs(at, model(at), METHODS)]


def found(at: Setting) -> Any:
    """Of each method and number of blocks, what is added on each text."""
    return added(at, model(at), METHODS)


def cheaper(by: str, than: str, of: str) -> Claim:
    """That one way of cutting adds less than another, at the most blocks, by its error over texts."""

    def seen(costs: Any, full: bool) -> Seen:
        gain, error = paired([a - b for a, b in zip(costs[than][-1], costs[by][-1], strict=True)])
        here = "; ".join(f"{name} {told(costs[name])}" for name in (than, by))
        on = f"{of if full else SHIPPED[of]}, {'WikiText-2' if full else '4 held-out files of Python'}"
        return Seen(f"{here} nats a token; gain {gain:+.4f} ± {error:.4f} at most blocks", on, beyond(gain, error))

    return Claim(f"{by.capitalize()} costs less than {than}.", seen)


def told(costs: list[list[float]]) -> str:
    """What is added, a figure for each number of blocks."""
    return ", ".join(f"{mean:+.3f} ± {error:.3f}" for mean, error in map(paired, costs))


SHIPPED = {LLAMA: f"the built-in decoder, 1 and 3 of 10 blocks, {TOLD}"}
PART = Part(
    "Figure 6",
    "what cutting the most linear blocks costs: dropped, replaced by linear maps, distilled",
    runs,
    found,
    (cheaper(REPLACED.name, DROPPED.name, LLAMA), cheaper(DISTILLED.name, REPLACED.name, LLAMA)),
)

if __name__ == "__main__":
    script(PART)
