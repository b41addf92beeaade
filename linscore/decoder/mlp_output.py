"""The linear layer of a block whose output is the MLP's contribution to the residual stream.

A linear map can be fused into that layer only if its output reaches the stream as it is. Which layer it is differs by
family, and a norm or a scale after it does not show in its name: so candidates are tried, on a few tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from linscore.decoder.call import probe_tokens
from linscore.decoder.find import Decoder
from linscore.decoder.run import run, watch
from linscore.decoder.states import first_tensor, has_path
from linscore.decoder.wrapped import check_own_modules
from linscore.errors import LinscoreError

CANDIDATES = (
    "mlp.down_proj",
    "mlp.c_proj",
    "mlp.dense_4h_to_h",
    "mlp.fc2",
    "fc2",
    "mlp.fc_out",
    "ffn.down_proj",
    "mixer.out_proj",
)


def find_projection(decoder: Decoder) -> str:
    """Finds the MLP's output projection, by adding something to its output: it must leave every block as it is.

    Returns:
        The path inside a block, such as `"mlp.down_proj"`.

    Raises:
        LinscoreError: with the reason, where no map can be fused: a mixture of experts, no projection found, one that
            is quantized, adapted or offloaded, or one whose output is normed or scaled on its way (Gemma 2 and 3,
            OLMo 2, OPT-350m).
    """
    paths = _candidates(decoder)
    for path in paths:
        _check_plain(decoder, path)
        if _arrives(decoder, path):
            return path
    raise LinscoreError(
        f"{decoder.name}: what {paths[0]} gives does not reach the residual stream as it is (a norm or a scale after "
        "it), so no map can be fused"
    )


def check_wide(decoder: Decoder, projection: str) -> None:
    """Make sure that the projections have as many inputs as the stream has features: moments hold no δ wider than x.

    Raises:
        LinscoreError: if one has fewer.
    """
    narrow = min(in_out_weight(block.get_submodule(projection)).shape[0] for block in decoder.blocks)
    if narrow < decoder.width:
        raise LinscoreError(
            f"{decoder.name}: {projection} has {narrow} inputs, fewer than the {decoder.width} features of the "
            "residual stream: collect for fuse-output instead"
        )


def likely_inputs(decoder: Decoder) -> int:
    """How many inputs the first layer has that may be the projection, which is not tried: a model may have no weights.

    Raises:
        LinscoreError: where there is none.
    """
    path = _candidates(decoder)[0]
    return max(in_out_weight(block.get_submodule(path)).shape[0] for block in decoder.blocks)


def in_out_weight(module: nn.Module) -> Tensor:
    """The weight `[p, d]` of a linear layer from p to d features, out = in·W: a view, so that edits reach the layer.

    Raises:
        LinscoreError: if it is neither nn.Linear nor transformers' Conv1D.
    """
    if isinstance(module, Conv1D):
        return module.weight
    if isinstance(module, nn.Linear):
        return module.weight.T
    raise LinscoreError(f"{type(module).__name__} is no linear layer: give an nn.Linear or transformers' Conv1D")


def _candidates(decoder: Decoder) -> list[str]:
    paths = [path for path in CANDIDATES if all(has_path(block, path) for block in decoder.blocks)]
    if not paths:
        raise LinscoreError(f"{decoder.name}: {_why_none(decoder)}, so no map can be fused")
    return paths


def _why_none(decoder: Decoder) -> str:
    names = (name for block in decoder.blocks for name, _ in block.named_modules())
    if any("experts" in name.split(".") for name in names):
        return "its MLPs are mixtures of experts, which have no single output projection"
    kinds = "/".join(sorted({type(block).__name__ for block in decoder.blocks}))
    return f"not every block ({kinds}) has one of {', '.join(CANDIDATES)}"


def _check_plain(decoder: Decoder, path: str) -> None:
    """Raises LinscoreError unless the layer of every block has a weight that can be read and edited."""
    for index, block in enumerate(decoder.blocks):
        module = block.get_submodule(path)
        if not (isinstance(module, (nn.Linear, Conv1D)) and is_plain(module.weight)):
            check_own_modules(decoder.model, decoder.name)
            raise LinscoreError(
                f"{decoder.name}: {path} of block {index} ({type(module).__name__}) has no plain floating-point weight "
                "in memory (quantized or offloaded): load the model without that, or linearize instead"
            )


def is_plain(weight: Tensor) -> bool:
    """Whether a layer's weight is a floating-point matrix in memory that can be read and edited."""
    # Quantizers keep their weights as parameters of other types, or as integers in another shape.
    real = weight.dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    return type(weight) is nn.Parameter and real and weight.ndim == 2 and not weight.is_meta


@dataclass(frozen=True)
class _Trial:
    """One block with something added to its projection's output; every tensor is on the CPU, in float64."""

    added: Tensor
    before: Tensor  # what leaves the block without it
    after: Tensor
    bound: Tensor  # of the rounding of after − before

    def arrives(self) -> bool:
        error = (self.after - self.before - self.added).abs()
        finite = error.isfinite()
        return bool(finite.any() and (error <= self.bound)[finite].all())


def _arrives(decoder: Decoder, path: str) -> bool:
    """Whether what is added to the layer's output leaves the block unchanged, to rounding, in every block."""
    tokens = probe_tokens(decoder)
    states: dict[int, tuple[Tensor, Tensor]] = {}
    with watch(decoder, lambda index, s: states.__setitem__(index, (s.x.clone(), s.y.clone()))):
        run(decoder, tokens)
    trials: dict[int, _Trial] = {}
    with ExitStack() as hooks:
        for index, block in enumerate(decoder.blocks):
            _try_block(hooks, block, path, *states[index], partial(trials.__setitem__, index))
        run(decoder, tokens)
    return len(trials) == len(decoder.blocks) and all(trial.arrives() for trial in trials.values())


def _try_block(
    hooks: ExitStack, block: nn.Module, path: str, x: Tensor, y: Tensor, hand_over: Callable[[_Trial], None]
) -> None:
    """Adds to the projection, hands over what came of it, and lets later blocks see `y` as if nothing had been."""
    # Larger than any rounding of the stream, feature by feature, and of changing sign so that no norm passes it on.
    size = torch.nan_to_num(y.abs() + y.abs().mean())
    added = size * (1 - 2 * (torch.arange(y.shape[-1], device=y.device) % 2))
    sums: list[Tensor] = []

    def add(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        changed = output + added.to(output).reshape(output.shape)
        sums.append(changed.clone())  # Falcon adds its attention to it in place
        return changed

    def compare(_block: nn.Module, _args: Any, output: Any) -> Any:
        after = first_tensor(output)
        if len(sums) == 1:  # as often as the block: no more, no less
            hand_over(_trial(x, y, added, after, sums[0]))
        return (y, *output[1:]) if isinstance(output, (tuple, list)) else y

    hooks.callback(block.get_submodule(path).register_forward_hook(add).remove)
    hooks.callback(block.register_forward_hook(compare).remove)


def _trial(x: Tensor, y: Tensor, added: Tensor, after: Tensor, changed: Tensor) -> _Trial:
    # Every sum on the way, in either run, rounds by half an eps of one of these.
    eps = max(torch.finfo(tensor.dtype).eps for tensor in (y, changed))
    x, y, added, after, changed = (t.detach().cpu().double() for t in (x, y, added, after, changed))
    bound = eps * (x.abs() + y.abs() + added.abs() + after.abs() + changed.reshape(y.shape).abs())
    return _Trial(added, y, after, bound)
