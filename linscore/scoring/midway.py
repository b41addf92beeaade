"""Where a group of batches stands between two blocks, so that it can be gone on with there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from linscore.errors import LinscoreError, reason
from linscore.files.json_file import parse_json
from linscore.scoring.settle import Marked

SAME = "same"


@dataclass(frozen=True)
class Midway:
    """A group whose batches have all run through the blocks before `block`.

    Attributes:
        block: the next one.
        states: what the way of running it goes on from, by names of its own.
        lost: by part of a batch, the positions that pairs of states have lost as not finite.
        left: the same of heavy rows that are not added yet.
    """

    block: int
    states: Mapping[str, Tensor]
    lost: Sequence[Marked]
    left: Sequence[Marked]

    def save(self, path: Path) -> None:
        """Write it to a file."""
        tensors: dict[str, Tensor] = {}
        same: dict[str, str] = {}  # spans may hold one state by several names: a file has it once
        first: dict[tuple[int, torch.Size], str] = {}
        for name, tensor in self.states.items():
            known = first.setdefault((tensor.data_ptr(), tensor.shape), name)
            if known == name:
                tensors[f"state/{name}"] = tensor.contiguous()
            else:
                same[name] = known
        for kind, marked in (("lost", self.lost), ("left", self.left)):
            tensors |= {f"{kind}/{n}/{name}": where for n, one in enumerate(marked) for name, where in one.items()}
        save_file(tensors, path, {SAME: json.dumps(same)})

    @staticmethod
    def load(path: Path, block: int, parts: int) -> Midway:
        """Read what `save` wrote, of a group of so many parts.

        Raises:
            LinscoreError: for a file that is not there, or damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                same = parse_json(file.metadata()[SAME])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            states: dict[str, Tensor] = {}
            lost: list[Marked] = [{} for _ in range(parts)]
            left: list[Marked] = [{} for _ in range(parts)]
            for key, tensor in tensors.items():
                kind, _, name = key.partition("/")
                if kind == "state":
                    states[name] = tensor
                else:
                    number, _, pair = name.partition("/")
                    {"lost": lost, "left": left}[kind][int(number)][pair] = tensor
            states |= {name: states[known] for name, known in same.items()}
        except Exception as error:
            raise LinscoreError(f"{path} is damaged ({reason(error)}): remove {path.parent} and start again") from error
        return Midway(block, states, lost, left)


Between = Callable[[Midway], None]  # called between two blocks
