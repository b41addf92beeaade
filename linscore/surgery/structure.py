"""What depends on a block's index when blocks go: the configuration, which is sliced, and the modules, which must not.

Nothing is patched: a model is built from the sliced configuration as `from_pretrained` would build it, and compared
module by module with the one it comes from. What differs depends on the index, and no checkpoint could say so.
"""

import copy
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from linscore.errors import LinscoreError

__all__ = ["check_structure", "cut_config", "depth_fields", "original_name"]

# Lists that name blocks instead of having one entry for each.
INDEX_LISTS = ("mlp_only_layers", "moe_layers", "attn_layer_indices", "hybrid_layer_ids")
# Those of them that only say which blocks are of a kind, and can be numbered anew.
RENUMBERED = ("attn_layer_indices", "hybrid_layer_ids")
# Modes of a module, and its place in the cache: LongCat has two for each block.
UNCOMPARED = ("training", "gradient_checkpointing", "layer_idx", "layer_id")
# Types of blocks that keep no keys and values, under their present and former names.
WITHOUT_KEYS = ("linear_attention", "mamba", "conv", "moe", "mlp", "recurrent")


def depth_fields(config: PreTrainedConfig, depth: int) -> list[tuple[str, ...]]:
    """Which fields may say that there are `depth` blocks, the likeliest first: some families have one of their own.

    Of BART's decoder `num_hidden_layers` is the encoder's depth, and `decoder_layers` counts; xLSTM has both names.
    """
    text = config.get_text_config()
    usual = [("num_hidden_layers",)] if getattr(text, "num_hidden_layers", None) == depth else []
    own = [
        name
        for name, value in vars(text).items()
        if type(value) is int and value == depth and ("layers" in name or "blocks" in name)
    ]
    others = [name for name in own if name not in (text.attribute_map.get("num_hidden_layers"), "num_hidden_layers")]
    return [*usual, *((*fields, name) for fields in usual for name in others), *((name,) for name in others)]


def cut_config(
    config: PreTrainedConfig, survivors: Sequence[int], depth: int, fields: Sequence[str]
) -> PreTrainedConfig:
    """The configuration of the same model with these blocks only, as it reads once written and loaded again.

    Args:
        config: of the whole model; it stays as it is.
        survivors: indices of the blocks that stay, ascending.
        depth: how many blocks the whole model has.
        fields: which say so, one of `depth_fields`.

    Raises:
        LinscoreError: if the configuration says which block is what by rules of the index.
    """
    changed = copy.deepcopy(config)
    text = changed.get_text_config()
    _refuse_rules(text, depth, survivors)
    for name, value in _per_block(text, depth):
        setattr(text, name, type(value)(value[index] for index in survivors))
    if getattr(text, "attention_types", None):  # GPT-Neo keeps its types twice, and reads this form
        text.attention_types = [[[kind], len(list(run))] for kind, run in groupby(text.attention_layers)]
    if getattr(text, "moe_layers", None):
        text.moe_layers = list(range(len(survivors)))
    for name in RENUMBERED:
        if getattr(text, name, None):
            setattr(text, name, [new for new, old in enumerate(survivors) if old in getattr(text, name)])
    for field in fields:
        setattr(text, field, len(survivors))  # by its own name: the class's attribute_map translates
    again = type(config).from_dict(_written(changed, text, survivors))
    again.name_or_path = config.name_or_path
    _keep_choices(config, again)
    return again


def _keep_choices(config: PreTrainedConfig, again: PreTrainedConfig) -> None:
    """What this process chose and no file says; parts last, since what the whole is told goes for them as well."""
    for name in ("_attn_implementation", "_experts_implementation"):
        if getattr(config, name, None) is not None:
            setattr(again, name, getattr(config, name))
    for part in config.sub_configs:
        if getattr(config, part, None) is not None:
            _keep_choices(getattr(config, part), getattr(again, part))


def _written(changed: PreTrainedConfig, text: PreTrainedConfig, survivors: Sequence[int]) -> dict[str, Any]:
    """The configuration as it is written; what Gemma 4 says of single blocks can only be renumbered there."""
    written = changed.to_dict()
    part = next((written[key] for key in changed.sub_configs if getattr(changed, key, None) is text), written)
    if part.get("per_layer_config"):
        of_block = {int(index): said for index, said in part["per_layer_config"].items()}
        part["per_layer_config"] = {new: of_block[old] for new, old in enumerate(survivors) if old in of_block}
    return written


def original_name(name: str, path: str, survivors: Sequence[int]) -> str:
    """What the original model calls the module or tensor that the cut one calls `name`; `path` is the block list."""
    if not name.startswith(f"{path}."):
        return name
    index, *rest = name.removeprefix(f"{path}.").split(".", 1)
    return ".".join([path, str(survivors[int(index)]), *rest])


def check_structure(cut: nn.Module, original: nn.Module, path: str, survivors: Sequence[int]) -> None:
    """Makes sure that every module and tensor of the cut model is what it was in the original.

    Settings are compared inside blocks, their index apart: outside, some say what kinds of blocks there are.

    Raises:
        LinscoreError: if a class, a setting or a shape differs, or a tensor outside the blocks has no place any more.
    """
    twins = dict(original.named_modules(remove_duplicate=False))  # blocks of GPT-1 share their activation
    for name, module in cut.named_modules():
        before = original_name(name, path, survivors)
        if before not in twins or type(twins[before]) is not type(module):
            was = type(twins[before]).__name__ if before in twins else "nothing"
            raise _changes(before, was, type(module).__name__)
        if name.startswith(f"{path}."):
            new = int(name.removeprefix(f"{path}.").split(".", 1)[0])
            _compare_settings(before, twins[before], module, (survivors[new], new))
    _compare_tensors(cut, original, path, survivors)


def _refuse_rules(text: PreTrainedConfig, depth: int, survivors: Sequence[int]) -> None:
    """Refuses what has no correct sliced form, and hybrids that would be left without attention."""
    moe = set(getattr(text, "moe_layers", None) or ())
    rules = {
        "mlp_only_layers": bool(getattr(text, "mlp_only_layers", None)),
        "decoder_sparse_step": (getattr(text, "decoder_sparse_step", None) or 1) != 1,
        "moe_layers": bool(moe) and moe != set(range(depth)),
        "num_kv_shared_layers": bool(getattr(text, "num_kv_shared_layers", None)),
    }
    for key in (key for key, holds in rules.items() if holds):
        raise LinscoreError(
            f"{text.model_type} says by the index of a block what the block is ({key} = {getattr(text, key)}): with "
            "blocks gone the others would become something else, so none can be dropped"
        )
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ()
    attention = [index for index, kind in enumerate(kinds) if kind not in WITHOUT_KEYS]
    if attention and not set(attention) & set(survivors):
        raise LinscoreError(
            f"{text.model_type} needs one of its attention blocks {attention} for its cache: leave one of them in"
        )


def _per_block(text: PreTrainedConfig, depth: int) -> Iterator[tuple[str, Any]]:
    """Lists with one entry for each block, such as `layer_types`, `no_rope_layers`, GPT-Neo's `attention_layers`."""
    for name, value in list(vars(text).items()):
        named = ("layer" in name or "block" in name) and name not in INDEX_LISTS
        # SmolLM3's no_rope_layers may be longer than the model is deep.
        if named and isinstance(value, list | tuple) and (len(value) == depth or name == "no_rope_layers"):
            yield name, value


def _compare_settings(name: str, before: nn.Module, after: nn.Module, index: tuple[int, int]) -> None:
    """Compares numbers, strings and flags of two modules; `index` is the old and new number of their block."""
    for key, new in vars(after).items():
        if key.startswith("_") or key in UNCOMPARED:
            continue
        old = vars(before).get(key)
        scalars = all(value is None or isinstance(value, bool | int | float | str) for value in (old, new))
        if scalars and old != new and (old, new) != index:
            raise _changes(f"{name}.{key}", old, new)


def _compare_tensors(cut: nn.Module, original: nn.Module, path: str, survivors: Sequence[int]) -> None:
    shapes = {name: tensor.shape for name, tensor in original.state_dict().items()}
    for name, tensor in cut.state_dict().items():
        before = original_name(name, path, survivors)
        if shapes.get(before) != tensor.shape:
            was = list(shapes[before]) if before in shapes else "nothing"
            raise _changes(before, was, list(tensor.shape))
        del shapes[before]
    left = [name for name in shapes if not name.startswith(f"{path}.")]
    if left:
        raise _changes(left[0], list(shapes[left[0]]), "nothing")


def _changes(what: str, old: Any, new: Any) -> LinscoreError:
    return LinscoreError(
        f"{what} would turn from {old} into {new} once the cut model is loaded again: it depends on the index of its "
        "block, on the number of blocks, or on what was run before, so these blocks cannot be dropped"
    )
