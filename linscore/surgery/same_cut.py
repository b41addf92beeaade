"""The same cut by other tools: what mergekit and llama.cpp are told so that they drop these blocks."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from linscore.spans import runs

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

__all__ = ["SameCut", "same_cut"]

_DTYPES = ("float32", "float16", "bfloat16")  # that mergekit knows; tensors stay as they are where it is told nothing
_APART = ("dtype", "torch_dtype", "transformers_version")  # in a configuration, not of the cut


@dataclass(frozen=True)
class SameCut:
    """A cut that drops blocks, in the words of others.

    Attributes:
        mergekit: what its YAML says: `merge_method: passthrough`, and a slice for each run of survivors.
        llama_cpp: the command line that prunes the model's GGUF; None where `llama-quantize` would make another model:
            it leaves lists with an entry for each block as they are.
        config: what the configuration says otherwise than the model's. mergekit sets no lists, and the number of blocks
            of the families that it knows (decisions: The same cut by other tools).
    """

    mergekit: dict[str, Any]
    llama_cpp: str | None
    config: dict[str, Any]

    def yaml(self) -> str:
        """What `mergekit-yaml` reads."""
        import yaml  # a third of a second, which no other use of a cut needs

        slices = [{"sources": [_told(one) for one in part["sources"]]} for part in self.mergekit["slices"]]
        content = self.mergekit | {"slices": slices}
        return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True, width=10**6)


def same_cut(
    model: str,
    gone: Collection[int],
    depth: int,
    dtype: torch.dtype | None,
    before: PreTrainedConfig,
    after: PreTrainedConfig,
) -> SameCut | None:
    """The cut of `model` that drops the blocks `gone`; None for a model with linear blocks, which only linscore knows.

    Args:
        model: Hub name or folder.
        gone: indices of blocks.
        depth: how many the model has.
        dtype: of the weights of the cut; None: as they are.
        before: the configuration of the model.
        after: that of the cut.
    """
    if hasattr(before, "linscore"):
        return None
    kept = runs(set(range(depth)) - set(gone))
    slices = [{"sources": [{"model": model, "layer_range": [run.first, run.last + 1]}]} for run in kept]
    mergekit: dict[str, Any] = {"merge_method": "passthrough", "slices": slices}
    named = str(dtype).removeprefix("torch.")
    mergekit |= {"dtype": named} if named in _DTYPES else {}
    said, says = (json.loads(config.to_json_string(use_diff=False)) for config in (before, after))
    changed = _changed(said, says)
    llama_cpp = f"llama-quantize --prune-layers {','.join(map(str, sorted(gone)))} model.gguf cut.gguf COPY"
    return SameCut(mergekit, None if _moved(said, changed) else llama_cpp, changed)


def _told(source: Mapping[str, Any]) -> dict[str, Any]:
    """A source as mergekit reads it: in a plain name + and @ would mean an adapter and a revision."""
    plain = not {"+", "@"} & set(source["model"])
    return {**source, "model": source["model"] if plain else {"model": {"path": source["model"]}}}


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says otherwise, those inside it included."""
    found = {key: value for key, value in after.items() if value != before.get(key) and key not in _APART}
    return {
        key: _changed(before[key], value) if isinstance(value, dict) and isinstance(before.get(key), dict) else value
        for key, value in found.items()
    }


def _moved(before: Mapping[str, Any], changed: Mapping[str, Any]) -> bool:
    """Whether a block is of another kind than the one that had its number before, as far as lists say."""
    pairs = [(before.get(key), value) for key, value in changed.items()]
    lists = any(isinstance(now, list) and now != (was or [])[: len(now)] for was, now in pairs)
    return lists or any(isinstance(now, dict) and _moved(was or {}, now) for was, now in pairs)
