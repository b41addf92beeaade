"""Models that hold linear blocks, saved and loaded as any other.

This file is also what `save_pretrained` of such a model writes beside the weights as `modeling_linscore.py`, for
`from_pretrained(folder, trust_remote_code=True)` of `AutoModelForCausalLM` and, without the head, of `AutoModel`: it
imports nothing but torch, transformers and, by a dot, `linear_block` and `linear_parts`, which go with it.
"""

from __future__ import annotations

import copy
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import transformers
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedConfig, PreTrainedModel

from .linear_block import DamagedError, LinearBlock, blank, empty_map, replacement
from .linear_parts import PartlyLinear, keep_whole, make_partly_linear, number_slots, without_attention

# Of a saved configuration: under its family's own name, loading it without this file would put random blocks in place.
MODEL_TYPE = "linscore"
MODULE = "modeling_linscore"
BESIDE = ("linear_block", "linear_parts")


class Linearized:
    """What a family's model needs to hold linear blocks where `config.linear_blocks` says so; comes before the family.

    `config.linear_blocks` has an entry for each block, what `describe` of a `LinearBlock` or a `PartlyLinear` block
    gives, or None. `config.linscore` says the family's `architecture` and `model_type`, the `path` to its blocks, their
    `width` and, where parts of blocks went, the `sub_blocks` that were found.
    """

    family: ClassVar[type[PreTrainedModel]]
    config: PreTrainedConfig

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        about, described = config.linscore, config.get_text_config().linear_blocks
        blocks = self.get_submodule(about["path"])  # type: ignore[attr-defined]
        if len(described) != len(blocks):
            raise DamagedError(f"the configuration describes {len(described)} blocks of {len(blocks)}")
        for index, entry in enumerate(described):
            if entry is not None and "factors" in entry:
                empty = empty_map(blocks[index], about["width"], entry)
                blocks[index] = replacement(blocks[index], *empty, slot=index, entries=entry["entries"])
            elif entry is not None:
                make_partly_linear(blocks[index], entry, about["width"])
        if any(map(without_attention, blocks.children())):
            number_slots(blocks, getattr(config.get_text_config(), "layer_types", None))
        keep_whole(self, blocks)

    def save_pretrained(
        self, save_directory: str | Path, is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """As the family's, and what lets other programs load the folder; call `push_to_hub` to upload."""
        family = self.family
        if getattr(transformers, family.__name__, None) is not family:
            raise ValueError(f"{family.__name__} is not part of transformers: save its state_dict instead")
        if kwargs.get("push_to_hub"):
            raise ValueError("save_pretrained(push_to_hub=True) would upload half the files: call push_to_hub instead")
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)  # type: ignore[misc]
        if is_main_process:
            _add_code(Path(save_directory))

    @classmethod
    def is_custom_code(cls) -> bool:
        """No: tensors are called on disk what transformers calls the family's, and are read by the same names."""
        return False

    def _init_weights(self, module: nn.Module) -> None:
        if not isinstance(
            module, LinearBlock | PartlyLinear
        ):  # a family that knows its block's class would look for what is gone
            super()._init_weights(module)  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        return (blank, (linearized_class, self.family), *reduced[2:])


class LinearizedConfig:
    """Loads the configuration of a saved model with linear blocks: an instance of its family's own class."""

    @staticmethod
    def from_pretrained(path: str | Path, **kwargs: Any) -> Any:
        """As that of `PreTrainedConfig`; raises DamagedError where it does not say the family."""
        values, kwargs = PreTrainedConfig.get_config_dict(path, **kwargs)
        try:
            model_type = values["linscore"]["model_type"]
            return CONFIG_MAPPING[model_type].from_dict(values | {"model_type": model_type}, **kwargs)
        except (KeyError, TypeError) as error:
            raise DamagedError(f"the configuration of {path} does not say the family of its model") from error

    @staticmethod
    def register_for_auto_class(*_: Any, **__: Any) -> None:
        """Nothing to do: transformers asks this of every class that it finds in a folder."""


class LinearizedForCausalLM(LinearizedConfig):
    """Loads a saved model with linear blocks: of its family's class, with this file's `Linearized` before it."""

    @classmethod
    def from_pretrained(cls, path: str | Path, *args: Any, **kwargs: Any) -> Any:
        """As that of `PreTrainedModel`; raises DamagedError where weights and configuration do not fit each other."""
        saved = kwargs.pop("config", None) or LinearizedConfig.from_pretrained(path)
        with_info = kwargs.pop("output_loading_info", False)
        kwargs |= {"ignore_mismatched_sizes": True, "output_loading_info": True}  # what is wrong is said below
        try:
            config = cls._described(saved)
            model, info = _described_class(config).from_pretrained(path, *args, config=config, **kwargs)
        except (AttributeError, KeyError, TypeError) as error:
            raise DamagedError(f"the linear blocks in the configuration of {path} are damaged ({error})") from error
        inside = "" if config is saved else f"{model.base_model_prefix}."  # a head that is left out is not unexpected
        wrong = [(key, "missing") for key in sorted(info["missing_keys"])]
        wrong += [(key, "unexpected") for key in sorted(info["unexpected_keys"]) if key.startswith(inside)]
        wrong += [(key, f"{list(found)}, not {list(wanted)}") for key, found, wanted in info["mismatched_keys"]]
        for key, what in wrong:
            raise DamagedError(f"the weights in {path} do not fit its configuration: {key} is {what}")
        return (model, info) if with_info else model

    @classmethod
    def is_backend_compatible(cls) -> bool:
        """Yes, to servers that run a family's modelling code: whether they can is for that family to say, not here."""
        return True

    @classmethod
    def _from_config(cls, config: PreTrainedConfig, **kwargs: Any) -> Any:
        config = cls._described(config)
        return _described_class(config)._from_config(config, **kwargs)

    @classmethod
    def _described(cls, config: Any) -> Any:
        """The configuration of what this class loads: what was saved."""
        return config


class LinearizedModel(LinearizedForCausalLM):
    """Loads what `AutoModel` does: the model that the saved one has its head on, and its linear blocks."""

    @classmethod
    def _described(cls, config: Any) -> Any:
        """The same with the names of the model without its head, which it can be saved under again."""
        base: Any = MODEL_MAPPING[type(config)]
        head = _described_class(config).family
        if base is head:
            return config
        path = config.linscore["path"].removeprefix(f"{head.base_model_prefix}.")
        config = copy.deepcopy(config)
        config.linscore = config.linscore | {"architecture": base.__name__, "path": path}
        return config


@cache
def linearized_class(family: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The class of models of `family` that hold linear blocks; it is called as the family, see `is_custom_code`."""
    if issubclass(family, Linearized):
        return family
    return type(family.__name__, (Linearized, family), {"family": family, "__module__": __name__})


def _described_class(config: PreTrainedConfig) -> Any:
    family = getattr(transformers, config.linscore["architecture"], None)
    if not (isinstance(family, type) and issubclass(family, PreTrainedModel)):
        raise DamagedError(f"transformers {transformers.__version__} has no model {config.linscore['architecture']!r}")
    kind: Any = family
    return linearized_class(kind)


def _add_code(folder: Path) -> None:
    """Put this file and those beside it into a saved model's folder, and let its configuration point there."""
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["model_type"], values["architectures"] = MODEL_TYPE, [f"Linearized{values['linscore']['architecture']}"]
    names = {"AutoConfig": LinearizedConfig, "AutoModel": LinearizedModel}
    names["AutoModelForCausalLM"] = LinearizedForCausalLM
    values["auto_map"] = {auto: f"{MODULE}.{own.__name__}" for auto, own in names.items()}
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    here = Path(__file__)
    for source, name in ((here, MODULE), *((here.with_name(f"{name}.py"), name) for name in BESIDE)):
        target = folder / f"{name}.py"
        if not (target.exists() and target.samefile(source)):
            shutil.copyfile(source, target)
