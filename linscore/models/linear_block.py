"""Decoder blocks that are affine maps of the residual stream, y = x + (x − μ_x) B + μ_δ, and models that hold them.

This file is also what `save_pretrained` of such a model writes beside the weights as `modeling_linscore.py`, for
`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`: it imports nothing but torch and transformers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

# Of a saved configuration: under its family's own name, loading it without this file would put random blocks in place.
MODEL_TYPE = "linscore"
MODULE = "modeling_linscore"
# Everything else a replacement takes over from the block: what its model reads off it, its mode and its hooks.
_OWN = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "slot", "entries", "factors")


class DamagedError(ValueError):
    """A saved model that does not hold what its configuration says."""


class LinearBlock(nn.Module):
    """The affine map of a block, as a block.

    In a model it is an instance of its family's own block class, since that is how transformers finds the blocks whose
    states it records, checkpoints and shards; it takes what that block takes and returns what that block returns.

    B is `weight` `[d, d]`, `down @ up` (`[d, r]`, `[r, d]`) or the diagonal matrix of `scale` `[d]`, in the model's
    dtype; μ_x is `center` and μ_δ is `bias`, `[d]`, and never narrower than float32.

    x − μ_x is formed first, in float32: in xB + (μ_δ − μ_x B) the means of outlier features, 30 to 100 σ, would cancel
    in 16 bits, and a rounded B would move the mean of y.

    Args:
        factors: what makes up B, by the names above, in the order x meets them; nothing for B = 0.
        mean_x: μ_x `[d]`.
        mean_delta: μ_δ `[d]`.
        dtype: of B; float32 by default.
        device: of everything.
        slot: where the replaced block's attention kept its keys in a cache; None without a cache.
        entries: how long a tuple the replaced block returned; None if it returned a tensor.
    """

    family: ClassVar[type[nn.Module]] = nn.Module  # the class of the block that is replaced
    bias: nn.Parameter
    center: Tensor

    def __init__(
        self,
        factors: Mapping[str, Tensor],
        mean_x: Tensor,
        mean_delta: Tensor,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        slot: int | None = None,
        entries: int | None = None,
    ) -> None:
        nn.Module.__init__(self)  # not super(): in a family's class that would build the block that is replaced
        self.slot, self.entries, self.factors = slot, entries, tuple(factors)
        for name, value in factors.items():
            self.register_parameter(name, nn.Parameter(value.to(device, dtype, copy=True)))
        means = dtype if dtype is torch.float64 else torch.float32
        self.bias = nn.Parameter(mean_delta.to(device, means, copy=True))
        self.register_buffer("center", mean_x.to(device, means, copy=True))

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Map the states `[..., d]`; of the family's other arguments only the cache matters."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, Cache) and self.slot is not None:
                _count_tokens(value, self.slot, hidden_states)
        y = (hidden_states + self.delta(hidden_states)).to(hidden_states.dtype)
        return y if self.entries is None else (y, *[None] * (self.entries - 1))

    def delta(self, x: Tensor) -> Tensor:
        """(x − μ_x) B + μ_δ `[..., d]`, in the dtype of μ_δ."""
        moved = x - self.center if self.factors else torch.zeros_like(self.center).expand_as(x)
        for name in self.factors:
            factor = self.get_parameter(name)
            moved = moved.to(factor.dtype)
            moved = moved @ factor if factor.ndim == 2 else moved * factor
        return moved + self.bias

    def describe(self) -> dict[str, Any]:
        """What a configuration says of this block, enough to build an empty one: its form, rank and `entries`."""
        rank = self.get_parameter("down").shape[1] if "down" in self.factors else None
        return {"factors": list(self.factors), "rank": rank, "entries": self.entries}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LinearBlock:
        """Move or cast; the means move along, but are never cast to 16 bits."""
        means = (self.bias, self.bias.grad, self.center)

        def apply(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            narrow = result.dtype.itemsize < torch.float32.itemsize
            return tensor.to(result.device, torch.float32) if narrow and any(tensor is m for m in means) else result

        super()._apply(apply, recurse)
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        return (_blank, (linear_class, self.family), *reduced[2:])


class Linearized:
    """What a family's model needs to hold linear blocks where `config.linear_blocks` says so; comes before the family.

    `config.linear_blocks` has an entry for each block, `LinearBlock.describe()` or None, and `config.linscore` says
    the family's `architecture` and `model_type`, the `path` to its blocks and their `width`.
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
            if entry is not None:
                empty = _empty_map(blocks[index], about["width"], entry)
                blocks[index] = replacement(blocks[index], *empty, slot=index, entries=entry["entries"])
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
        if not isinstance(module, LinearBlock):  # a family that knows its block's class would look for what is gone
            super()._init_weights(module)  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        return (_blank, (linearized_class, self.family), *reduced[2:])


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

    @staticmethod
    def from_pretrained(path: str | Path, *args: Any, **kwargs: Any) -> Any:
        """As that of `PreTrainedModel`; raises DamagedError where weights and configuration do not fit each other."""
        config = kwargs.pop("config", None) or LinearizedConfig.from_pretrained(path)
        with_info = kwargs.pop("output_loading_info", False)
        kwargs |= {"ignore_mismatched_sizes": True, "output_loading_info": True}  # what is wrong is said below
        try:
            model, info = _described_class(config).from_pretrained(path, *args, config=config, **kwargs)
        except (AttributeError, KeyError, TypeError) as error:
            raise DamagedError(f"the linear blocks in the configuration of {path} are damaged ({error})") from error
        wrong = [(key, what) for what in ("missing", "unexpected") for key in sorted(info[f"{what}_keys"])]
        wrong += [(key, f"{list(found)}, not {list(wanted)}") for key, found, wanted in info["mismatched_keys"]]
        for key, what in wrong:
            raise DamagedError(f"the weights in {path} do not fit its configuration: {key} is {what}")
        return (model, info) if with_info else model

    @staticmethod
    def _from_config(config: PreTrainedConfig, **kwargs: Any) -> Any:
        return _described_class(config)._from_config(config, **kwargs)


def replacement(
    block: nn.Module,
    factors: Mapping[str, Tensor],
    mean_x: Tensor,
    mean_delta: Tensor,
    *,
    slot: int,
    entries: int | None,
) -> LinearBlock:
    """A linear block that takes the place of `block`, with its attributes, mode and hooks, on its device.

    `block` is not to be used beside it: they share hooks. The other arguments are those of `LinearBlock`.
    """
    family: type = block.family if isinstance(block, LinearBlock) else type(block)
    like = next((p for p in block.parameters() if p.dtype.is_floating_point), torch.empty(0))
    linear = linear_class(family)(
        factors, mean_x, mean_delta, dtype=like.dtype, device=like.device, slot=slot, entries=entries
    )
    own = {*_OWN, *linear._parameters, *linear._buffers}
    vars(linear).update({name: value for name, value in vars(block).items() if name not in own})
    return linear


def keep_whole(model: Any, blocks: nn.Module) -> None:
    """Let accelerate put each linear block on one device, as the family's own."""
    linear = {type(block).__name__ for block in blocks.children() if isinstance(block, LinearBlock)}
    model._no_split_modules = {*(model._no_split_modules or ()), *linear}


@cache
def linear_class(family: type) -> type[LinearBlock]:
    """The class of linear blocks that are also instances of `family`."""
    return type(f"Linear{family.__name__}", (LinearBlock, family), {"family": family, "__module__": __name__})


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


def _blank(make: Callable[[type], type], family: type) -> Any:
    """An instance without content, for copies and pickles: classes that are made when needed have no address."""
    kind: Any = make(family)
    return kind.__new__(kind)


def _empty_map(block: nn.Module, width: int, entry: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Zeros for a `LinearBlock` as `entry` describes it, in the place of `block`, whose parameters know its width."""
    factors, r = entry["factors"], 0 if entry["rank"] is None else entry["rank"]
    shapes = {"weight": (width, width), "down": (width, r), "up": (r, width), "scale": (width,)}
    fits = any(width in parameter.shape for parameter in block.parameters()) and 0 <= r <= width
    if factors not in ([], ["weight"], ["down", "up"], ["scale"]) or not fits:
        raise DamagedError(f"the configuration has a linear block of unknown form: {entry}, width {width}")
    return {name: torch.zeros(shapes[name]) for name in factors}, torch.zeros(width), torch.zeros(width)


def _add_code(folder: Path) -> None:
    """Put this file into a saved model's folder, and let its configuration point there."""
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["model_type"], values["architectures"] = MODEL_TYPE, [f"Linearized{values['linscore']['architecture']}"]
    names = {"AutoConfig": LinearizedConfig, "AutoModelForCausalLM": LinearizedForCausalLM}
    values["auto_map"] = {auto: f"{MODULE}.{own.__name__}" for auto, own in names.items()}
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    target = folder / f"{MODULE}.py"
    if not (target.exists() and target.samefile(__file__)):
        shutil.copyfile(__file__, target)


def _count_tokens(cache: Cache, slot: int, x: Tensor) -> None:
    """Let the block's slot in the cache count the tokens of x `[batch, seq, d]`.

    Models read off single slots, the first of each kind of attention, how many tokens went before. A slot that stays
    empty there gives silently wrong positions and masks; keys of width 1 keep every slot right, whatever is replaced.
    """
    layer = cache.layers[slot] if slot < len(cache.layers) else None
    if layer is not None and not isinstance(layer, CacheLayerMixin):
        return  # a state-space model's slot, or that of a block without attention: nothing is read off it
    keys = getattr(layer, "keys", None)
    heads, width = (keys.shape[1], keys.shape[3]) if keys is not None and keys.ndim == 4 else (1, 1)
    zeros = x.new_zeros(x.shape[0], heads, x.shape[1], width)
    cache.update(zeros, zeros, slot)
