"""What stands around a decoder or in it: wrappers, which are looked through, and others' modules, which cuts refuse."""

from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from linscore.errors import LinscoreError

__all__ = ["check_own_modules", "is_sharded", "unwrapped"]

# Packages that put modules of their own in place of a model's, and what to do before a copy is made.
_PUT_IN = {
    "peft": "has adapters (peft), which no saved copy would hold: merge them into its weights first, by the "
    "merge_and_unload() of its PeftModel",
    "transformer_lens": "has modules of TransformerLens in place of its own, which no saved copy would hold: load the "
    "model again by itself, and give that",
}


def unwrapped(model: Any) -> Any:
    """The model inside torch.compile, DataParallel, DistributedDataParallel, or an object that holds one.

    nnsight's models and transformers' pipelines are no modules; they call what they hold `_module`, `_model` or
    `model`. A TransformerBridge is one, and called otherwise than the model that it holds.
    """
    if isinstance(model, DataParallel | DistributedDataParallel):
        return unwrapped(model.module)
    inside: tuple[str, ...] = ("_module", "_model", "model")
    if isinstance(model, nn.Module):
        inside = ("original_model",) if _is_of("transformer_lens", model) else ("_orig_mod",)
    held = (getattr(model, name, None) for name in inside)
    return next((unwrapped(one) for one in held if isinstance(one, nn.Module)), model)


def is_sharded(model: nn.Module) -> bool:
    """Whether `fully_shard` (FSDP2) has dealt out a model's own weights, which come together when it is called."""
    return any(kind.__name__ == "FSDPModule" for kind in type(model).__mro__)


def check_own_modules(model: nn.Module, name: str) -> None:
    """Make sure that a model is what its class builds, and its weights all that it computes with.

    Raises:
        LinscoreError: if it has adapters of peft, whether around it, loaded into it, or injected into its layers, or
            modules that TransformerLens has put in place of its own.
    """
    for package, what in _PUT_IN.items():
        if any(_is_of(package, module) for module in model.modules()):
            raise LinscoreError(f"{name} {what}")


def _is_of(package: str, module: nn.Module) -> bool:
    return any(kind.__module__.partition(".")[0] == package for kind in type(module).__mro__)
