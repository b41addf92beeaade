"""What the figures and tables are run on: what ships, in minutes, or the paper's families, on a machine with a Hub."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linscore.embedded.shipped import EMBEDDED_TEXT
from linscore.pretraining.token_store import standard_library

# Of the families that the paper scores, sizes that one GPU holds; its text is English, of the web.
MODELS = [
    *("facebook/opt-125m", "facebook/opt-1.3b", "facebook/opt-6.7b", "bigscience/bloom-560m", "tiiuae/falcon-7b"),
    *("EleutherAI/pythia-160m", "EleutherAI/pythia-1.4b", "EleutherAI/pythia-6.9b"),
    *("mistralai/Mistral-7B-v0.1", "meta-llama/Llama-2-7b-hf"),
]
TASKS = "boolq,cb,copa,multirc,record,rte,wic,wsc,arc_easy,arc_challenge"
READ = 400_000  # characters of Python's standard library that maps are fitted on
LABELLED = 120  # pieces of each module


@dataclass(frozen=True)
class Setting:
    """Where results go, and how much is done. What is there is not made again, so a run can be gone on with."""

    out: Path
    full: bool = False

    @property
    def models(self) -> list[str]:
        """Those that are scored."""
        return MODELS if self.full else ["embedded", "embedded-cosine"]

    @property
    def text(self) -> list[str]:
        """Options that name the text; the built-in one where there are none."""
        return ["--dataset", "HuggingFaceFW/fineweb", "--tokens", "1000000"] if self.full else ["--tokens", "65536"]

    @property
    def measured(self) -> list[str]:
        """Options of `evaluate`: held-out text."""
        return self.text if self.full else ["--tokens", "32768"]

    def linscore(self, result: str, *arguments: str) -> Path:
        """Run a command whose `--out` is `result`, unless that is whole already; where it is."""
        path = self.out / result
        done = path.with_name(f"{path.name}.done")
        if not done.exists():
            resume = ["--resume"] if arguments[0] in ("train", "distil") and path.exists() else []
            self._run(*arguments, "--out", str(path), *resume)
            done.touch()
        return path

    def printed(self, result: str, *arguments: str) -> Any:
        """What a command prints as JSON, kept in the file `result`."""
        path = self.out / result
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            text = self._run(*arguments, "--json")
            path.with_suffix(".part").write_text(text, encoding="utf-8")
            path.with_suffix(".part").rename(path)
        return json.loads(path.read_text(encoding="utf-8"))

    def _run(self, *arguments: str) -> str:
        print("linscore", *arguments, flush=True)
        command = [sys.executable, "-m", "linscore", *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    @property
    def training_text(self) -> Path:
        """Text that was not held out, for maps and distillation: the beginning of Python's standard library."""
        path = self.out / "training.txt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(itertools.islice(itertools.chain.from_iterable(standard_library()), READ)))
        return path

    @property
    def labelled(self) -> Path:
        """Pieces of the held-out text, labelled by the module that they come from."""
        path = self.out / "modules.jsonl"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8") as file:
                for module in sorted(EMBEDDED_TEXT.glob("*.py.txt"))[:4]:
                    text = module.read_text(encoding="utf-8")
                    step = max(1, len(text) // LABELLED)
                    for start in range(0, LABELLED * step, step):
                        row = {"text": text[start : start + 200], "label": module.name.removesuffix(".py.txt")}
                        file.write(json.dumps(row) + "\n")
        return path
