"""The paper, figure by figure, with linscore's own commands: on what ships, in minutes on two cores.

    python -m benchmarks.paper.run --out runs/paper            # quick; what is there is not made again
    python -m benchmarks.paper.run --out runs/paper --full     # the paper's families and sizes, on a machine with a Hub
    python -m benchmarks.paper.run --out runs/paper --only "Figure 1,Table 2"

Results go to OUT/paper.json as they come, and the table of claims to docs/paper.md once all are there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.paper.claims import table
from benchmarks.paper.figures import FIGURES
from benchmarks.paper.setting import Setting

PAGE = Path(__file__).parents[2] / "docs" / "paper.md"
CUTS = {"dropped": "Figure 6", "replaced": "Figure 7", "distilled": "Figure 8"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", help="some of them, with commas")
    options = parser.parse_args()
    only = options.only.split(",") if options.only else list(FIGURES)
    path = options.out / "paper.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in only:
        if name not in found.get("results", {}):
            started = time.monotonic()
            value = FIGURES[name](Setting(options.out, options.full))
            found = {
                "facts": results.facts(),
                "full": options.full,
                "results": found.get("results", {}) | {name: value},
            }
            path.write_text(json.dumps(found, indent=2), encoding="utf-8")
            print(f"{name:<10} {time.monotonic() - started:6.0f} s  {value}", flush=True)
    if FIGURES.keys() <= found["results"].keys():
        PAGE.write_text(page(found), encoding="utf-8")
        print(f"wrote {PAGE}")


def page(found: dict[str, Any]) -> str:
    """docs/paper.md."""
    shown = dict(found["results"])
    shown["Figures 6 to 8"] = {word: shown[name] for word, name in CUTS.items()}
    facts = "; ".join(f"{name} {value}" for name, value in found["facts"].items())
    what = (
        "the paper's families"
        if found["full"]
        else "what ships: two decoders of 2.9 M parameters, and committed runs of 1.1 M"
    )
    return f"""# The paper, figure by figure

*Your Transformer is Secretly Linear* (Razzhigaev et al., ACL 2024), its claims held against
{what}.
Written by `make paper` (`python -m benchmarks.paper.run`): every figure comes from a command of linscore, those of
training from runs of 1,200 steps that are in the repository. A claim that a small decoder does not show may hold for a
large one. What was run longer is in [results](results.md).

{table(shown)}

{facts}.
"""


if __name__ == "__main__":
    main()
