"""Attention and MLP of single blocks put out of work, each with something in its place that reads the residual stream.

The family's own code runs around them. What stands in for a sub-block reads what the sub-block reads before any norm:
the attention x, the MLP x + attention, or x where both run in parallel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from linscore.decoder.call import probe_tokens
from linscore.decoder.find import Decoder
from linscore.decoder.run import run
from linscore.decoder.stand_ins import restore_forward
from linscore.decoder.states import SubBlocks, entering_state, first_tensor
from linscore.spans import PARTS, Part

Adds = Callable[[Tensor], Tensor] | None  # from the stream [B, T, d] to what is added to it; None: nothing


class SubStandIns:
    """Stands in for the attention or the MLP of some blocks.

    Args:
        decoder: from `find_decoder`.
        sub_blocks: from `find_sub_blocks`.
    """

    def __init__(self, decoder: Decoder, sub_blocks: SubBlocks) -> None:
        self._blocks, self.sub_blocks = decoder.blocks, sub_blocks
        self._gives: dict[tuple[int, str], Any] = {}  # what each sub-block gave on a few tokens
        with ExitStack() as hooks:
            for index, block in enumerate(decoder.blocks):
                for path in (sub_blocks.attention, sub_blocks.mlp):
                    keep = partial(self._keep, (index, path))
                    hooks.callback(block.get_submodule(path).register_forward_hook(keep).remove)
            run(decoder, probe_tokens(decoder))

    def _keep(self, key: tuple[int, str], _module: nn.Module, _args: Any, output: Any) -> None:
        self._gives[key] = output

    @contextmanager
    def of(self, stand_ins: Mapping[tuple[int, Part], Adds]) -> Iterator[None]:
        """For as long as the context lasts, these parts of blocks are replaced."""
        with ExitStack() as undo:
            for index in sorted({index for index, _ in stand_ins}):
                parts = {part: stand_ins[index, part] for part in PARTS if (index, part) in stand_ins}
                self._replace(index, parts, undo)
            yield

    def _replace(self, index: int, parts: Mapping[Part, Adds], undo: ExitStack) -> None:
        block, reads = self._blocks[index], {}

        def enters(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            reads["attention"] = reads["mlp"] = entering_state(args, kwargs)

        def attended(_module: nn.Module, _args: Any, output: Any) -> None:
            reads["mlp"] = reads["attention"] + first_tensor(output).reshape(reads["attention"].shape)

        undo.callback(reads.clear)
        undo.callback(block.register_forward_pre_hook(enters, with_kwargs=True).remove)
        for part, adds in parts.items():
            path = self.sub_blocks.attention if part == "attention" else self.sub_blocks.mlp
            module = block.get_submodule(path)
            undo.callback(restore_forward, module, vars(module).get("forward"))
            module.forward = partial(self._forward, (index, path), part, adds, reads)
        if "mlp" in parts and not self.sub_blocks.parallel:
            attention = block.get_submodule(self.sub_blocks.attention)
            undo.callback(attention.register_forward_hook(attended).remove)

    def _forward(
        self, key: tuple[int, str], part: str, adds: Adds, reads: Mapping[str, Tensor], *_args: Any, **_kwargs: Any
    ) -> Any:
        state, gave = reads[part], self._gives[key]
        added = torch.zeros_like(state) if adds is None else adds(state).to(state.dtype)
        if first_tensor(gave).ndim == 2:  # OPT flattens batch and sequence for its MLP
            added = added.flatten(0, 1)
        return (added, *(None if isinstance(b, Tensor) else b for b in gave[1:])) if isinstance(gave, tuple) else added
