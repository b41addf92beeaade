"""What stands around a decoder or in it: wrappers, which are looked through, and adapters, which surgery refuses."""

from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from linscore.errors import LinscoreError

__all__ = ["check_no_adapters", "unwrapped"]


def unwrapped(model: Any) -> Any:
    """The model inside torch.compile, DataParallel, DistributedDataParallel, or an object that holds one.

    nnsight's models and transformers' pipelines are no modules; they call what they hold `_model` or `model`.
    """
    if isinstance(model, DataParallel | DistributedDataParallel):
        return unwrapped(model.module)
    inside = ("_orig_mod",) if isinstance(model, nn.Module) else ("_model", "model")
    held = (getattr(model, name, None) for name in inside)
    return next((unwrapped(one) for one in held if isinstance(one, nn.Module)), model)


def check_no_adapters(model: nn.Module, name: str) -> None:
    """Make sure that the weights of a model are all that it computes with.

    Raises:
        LinscoreError: if it has adapters of peft, whether around it, loaded into it, or injected into its layers.
    """
    if any(_is_of_peft(module) for module in model.modules()):
        raise LinscoreError(
            f"{name} has adapters (peft), which no saved copy would hold: merge them into its weights first, by the "
            "merge_and_unload() of its PeftModel"
        )


def _is_of_peft(module: nn.Module) -> bool:
    return any(kind.__module__.partition(".")[0] == "peft" for kind in type(module).__mro__)
