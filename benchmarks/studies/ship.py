"""Make what ships with linscore of a trained decoder: float16 weights that load as float32, tied ones once.

python -m benchmarks.studies.ship RUN/model linscore/embedded/cosine
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from linscore import load_pretrained


def ship(source: Path, target: Path) -> None:
    """Write the folder."""
    loaded = load_pretrained(str(source), device="cpu")
    model = loaded.model
    half = {name: value.half() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    model.save_pretrained(target, state_dict=half)
    loaded.tokenizer.save_pretrained(target)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    ship(*map(Path, sys.argv[1:]))
