"""The one door to what reads models with transformers: no code that a checkpoint brings runs unless the user says so.

transformers, where nobody says, asks on standard input, and a corpus there would answer.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig
from transformers.utils.peft_utils import find_adapter_config_file

from linscore.errors import LinscoreError, reason
from linscore.files.json_file import read_json
from linscore.models.declared import Weights, check_counts, check_depth, check_files, check_size, find_weights
from linscore.models.linear_model import MODEL_TYPE, LinearizedConfig, LinearizedForCausalLM

__all__ = ["Checkpoint", "UntrustedError"]

_KERNELS = ("attn_implementation", "experts_implementation")  # keys that may name code on the Hub


class UntrustedError(LinscoreError):
    """A checkpoint brings code, and nobody said that it may run."""


@dataclass(frozen=True)
class Checkpoint:
    """What transformers reads of a folder or a Hub name.

    Attributes:
        source: the folder or the name.
        revision: a branch, tag or commit of a Hub name.
        trust_remote_code: whether code that the checkpoint brings may run, of which a line on standard error tells.

    Every method raises UntrustedError where it would need such code and may not, and whatever transformers raises.
    """

    source: str
    revision: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.trust_remote_code:
            _tell(self.source)

    def config(self) -> Any:
        """The configuration; of a model with linear blocks, that of its family.

        Raises:
            LinscoreError: for an adapter, which is no model of its own.
        """
        folder = self._folder()
        if folder is not None:
            check_files(folder)
        adapter = find_adapter_config_file(self.source, revision=self.revision)
        if adapter is not None:
            raise _adapter(self.source, Path(adapter))
        values, _ = PreTrainedConfig.get_config_dict(self.source, **self._at())
        if not isinstance(values, dict):
            raise LinscoreError(f"the configuration of {self.source} is no JSON object: get it anew")
        check_counts(values, self._weights, self.source)
        if not self.trust_remote_code and any("/" in str(name) for name in _kernels(values)):
            raise _untrusted(self.source)
        try:
            return self._read(LinearizedConfig if values.get("model_type") == MODEL_TYPE else AutoConfig)
        except (
            TypeError,
            AttributeError,
            ArithmeticError,
            LookupError,
            AssertionError,
        ) as error:  # as families have it
            raise LinscoreError(
                f"the configuration of {self.source} is damaged ({reason(error)}): get it anew"
            ) from error

    def tokenizer(self, config: Any = None) -> Any:
        """The tokenizer."""
        folder = self._folder()
        if folder is not None:
            check_files(folder)
        return self._read(AutoTokenizer, **({} if config is None else {"config": config}))

    def model(self, loader: Any, config: Any, dtype: Any, **where: Any) -> Any:
        """The model of a configuration, as the auto class `loader` makes it; `where`: as `from_pretrained` has it."""
        weights = self._weights
        if weights is not None:
            check_depth(config, weights, self.source)
            with suppress(AttributeError, KeyError, TypeError):  # which loading says better
                check_size(self.empty(loader, config), weights, self.source)
        return self._read(loader, config=config, dtype=dtype, **where)

    def empty(self, loader: Any, config: Any) -> Any:
        """The same model, without memory for its tensors."""
        config = copy.deepcopy(config)
        with torch.device("meta"):
            if loader is LinearizedForCausalLM:
                return loader._from_config(config)
            return loader.from_config(config, trust_remote_code=self.trust_remote_code)

    def _read(self, loader: Any, **given: Any) -> Any:
        try:
            return loader.from_pretrained(self.source, trust_remote_code=self.trust_remote_code, **given, **self._at())
        except ValueError as error:
            if self.trust_remote_code or "trust_remote_code" not in str(error):
                raise
            raise _untrusted(self.source) from error

    def _folder(self) -> Path | None:
        return Path(self.source) if os.path.isdir(self.source) else None  # of Path, some names are errors

    @cached_property
    def _weights(self) -> Weights | None:
        folder = self._folder()
        return None if folder is None else find_weights(folder)

    def _at(self) -> dict[str, str]:
        return {} if self.revision is None else {"revision": self.revision}


def _untrusted(source: str) -> UntrustedError:
    return UntrustedError(
        f"{source} brings code of its own, which does not run unasked: read it, then give `trust_remote_code`, or give "
        "another model"
    )


def _adapter(source: str, file: Path) -> LinscoreError:
    base = read_json(file, dict[str, Any], damaged="is damaged: get the adapter anew").get("base_model_name_or_path")
    return LinscoreError(
        f"{source} is an adapter (peft) of {base}, no model of its own: merge it first, by peft's "
        f'AutoPeftModelForCausalLM.from_pretrained("{source}").merge_and_unload().save_pretrained("merged")'
    )


@cache
def _tell(source: str) -> None:
    """Once in a process: the configuration, the tokenizer and the weights of a model are read one by one."""
    print(f"trusted: code that {source} brings may run", file=sys.stderr)


def _kernels(values: Mapping[str, Any]) -> list[Any]:
    """What a configuration, or one inside it, says about how attention and experts are computed."""
    parts = [values, *(part for part in values.values() if isinstance(part, dict))]
    return [part[key] for part in parts for key in part if key.lstrip("_") in _KERNELS]
