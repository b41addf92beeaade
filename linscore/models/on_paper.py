"""What a model would take, from its configuration alone: weights, FLOP, and what a forward pass holds at its peak."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from linscore.decoder.call import accepted, evaluating
from linscore.decoder.find import Decoder
from linscore.errors import LinscoreError, reason
from linscore.models.cost import UNCOUNTED

__all__ = ["Held", "Pass", "Sizes", "loss_on_paper", "pass_on_paper", "sizes_on_paper"]


@dataclass(frozen=True)
class Sizes:
    """Parameters of a model, tied ones once, and the bytes of its tensors, buffers included."""

    parameters: int
    weights: int
    largest_block: int
    blocks: int

    @property
    def outside(self) -> int:
        """Bytes of what is in no block: embeddings, norms, head."""
        return self.weights - self.blocks


@dataclass(frozen=True)
class Pass:
    """What one forward pass of a batch through the blocks does, and holds at its peak beside the weights."""

    flops: int
    bytes: int


def sizes_on_paper(decoder: Decoder) -> Sizes:
    """The sizes of a model, which may be without memory for its tensors."""
    blocks = [_bytes(block) for block in decoder.blocks]
    parameters = sum(parameter.numel() for parameter in decoder.model.parameters())
    return Sizes(parameters, _bytes(decoder.model), max(blocks), sum(blocks))


def pass_on_paper(decoder: Decoder, sequences: int, length: int) -> Pass:
    """One forward pass of a model without memory for its tensors, without its head.

    Raises:
        LinscoreError: for a model that does not run so.
    """
    ids = torch.zeros(sequences, length, dtype=torch.long, device="meta")
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in accepted(decoder) else {}
    counter, attention = FlopCounterMode(display=False, custom_mapping=UNCOUNTED), _Attention()
    modes = (_Experts(), attention, counter, held := Held(_tensors(decoder.model)))
    with torch.no_grad(), evaluating(decoder.model), ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        try:
            decoder.backbone(ids, **options)
        except Exception as error:  # whatever an operation raises that has to see numbers, or is not known
            raise LinscoreError(f"{decoder.name} does not run without its weights ({reason(error)})") from error
    return Pass(counter.get_total_flops() + attention.flops, held.peak)


def loss_on_paper(decoder: Decoder, tokens: int) -> int:
    """Bytes that a model's head holds at its peak while the loss of so many tokens is measured; 0 without a head."""
    head = getattr(decoder.model, "get_output_embeddings", lambda: None)()
    if head is None:
        return 0
    state = torch.empty(tokens, decoder.width, dtype=head.weight.dtype, device="meta")
    with torch.no_grad(), Held(_tensors(head)) as held:
        logits = head(state)
        torch.nn.functional.cross_entropy(logits.float(), torch.empty(tokens, dtype=torch.long, device="meta"))
    return held.peak


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in {id(t): t for t in _tensors(module)}.values())


class Held(TorchDispatchMode):
    """A context that counts the bytes of tensors made in it, but for `but`: `peak` is the most that live at a time."""

    def __init__(self, but: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self._known = {tensor.untyped_storage()._cdata: 0 for tensor in but}
        self._live = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return args[0].dtype is torch.bool  # whether a mask is all ones, and the like
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        self.peak = max(self.peak, self._live)
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known[key] = storage.nbytes()
            self._live += storage.nbytes()
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self._live -= self._known.pop(key)


class _Experts(TorchDispatchMode):
    """Products of experts in every dtype: on paper torch has those of bfloat16 alone."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not torch.ops.aten._grouped_mm.default:
            return func(*args, **(kwargs or {}))
        states, experts = args[:2]
        return states.new_empty(*states.shape[:-1], experts.shape[-1])


class _Attention(TorchFunctionMode):
    """Attention as a fused kernel has it, without the scores that torch's fallback would hold on paper."""

    flops = 0

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args) :]))[:3]
        heads = (query.shape[0], query.shape[1])
        self.flops += sdpa_flop_count(query.shape, (*heads, *key.shape[2:]), (*heads, *value.shape[2:]))
        return query.new_empty(*query.shape[:-1], value.shape[-1])
