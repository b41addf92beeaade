"""The paper, figure by figure, with linscore's own commands: on what ships, in minutes on two cores.

    python -m benchmarks.paper.run                      # quick; what is there is not made again
    python -m benchmarks.paper.run --full               # the paper's models and data, on a machine with a Hub
    python -m benchmarks.paper.run --full --list        # what that would run
    python -m benchmarks.paper.figure_6                 # one of them alone, with the same options

The table of claims goes to docs/paper.md, that of --full to OUT/paper.md.
"""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path

from benchmarks import results
from benchmarks.paper.claims import Part, listed, options, setting
from benchmarks.paper.setting import Setting

PAGE = Path(__file__).parents[2] / "docs" / "paper.md"
NAMES = (*(f"figure_{number}" for number in range(1, 10)), "table_1", "table_2", "table_3")
PARTS: tuple[Part, ...] = tuple(import_module(f"benchmarks.paper.{name}").PART for name in NAMES)


def main() -> None:
    given = options(__doc__).parse_args()
    at = setting(given)
    if given.list:
        for part in PARTS:
            print(part.name)
            listed(part, at)
        return
    failed = [line for part in PARTS for line in _made(part, at)]
    path = at.out / "paper.md" if at.full else PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(at), encoding="utf-8")
    print(f"wrote {path}")
    if failed:
        raise SystemExit("\n".join(["failed, and tried again next time:", *failed]))


def _made(part: Part, at: Setting) -> list[str]:
    started = time.monotonic()
    failed = part.make(at)
    print(f"{part.name:<10} {time.monotonic() - started:6.0f} s", flush=True)
    return failed


def page(at: Setting) -> str:
    """docs/paper.md."""
    lines = ["| | the paper | here | on | |", "|---|---|---|---|---|"]
    for part in PARTS:
        lines += [f"| {' | '.join(row)} |" for row in part.rows(at)]
    facts = "; ".join(f"{name} {value}" for name, value in results.facts().items())
    table = "\n".join(lines)
    return f"""# The paper, figure by figure

*Your Transformer is Secretly Linear* (Razzhigaev et al., ACL 2024): each of its claims, and what linscore's commands
measured. Written by `make paper` (`python -m benchmarks.paper.run`); `--full` takes the paper's models and data on a
machine with a Hub, and `--list` says what it runs. A claim that small decoders of Python do not show may hold for large
ones. ± is a standard deviation behind a mean, and a standard error behind a cost, a fall, a gain or a grade; a
difference within two standard errors is undecided. What was run longer is in [results](results.md).

{table}

{facts}.
"""


if __name__ == "__main__":
    main()
