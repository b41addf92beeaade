"""Training blocks to be more, or less, linear: penalties on the residual stream of a running decoder.

    penalty = cosine · Σ_i mean_t (1 − cos(h_i, h_{i−1})) + mse · Σ_i mean_t ‖h_i − h_{i−1}‖²       (paper: section 4)
              + linearity · Σ_i (1 − s_i)

h_0 is what enters the first block, h_i what leaves block i − 1 before any final norm, t runs over real tokens: padding
does not count. s_i is the linearity without residual of the batch itself, with a ridge, or of the batch under the map
of running moments (see `batch_linearity`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from linscore.decoder.find import find_decoder
from linscore.decoder.states import entering_state, first_tensor
from linscore.errors import LinscoreError
from linscore.regularization.batch_linearity import ROWS_PER_FEATURE, BlockMoments, batch_linearity
from linscore.regularization.rerun import Rerun, can_rerun
from linscore.regularization.taps import Chain, tap

__all__ = ["LinearityRegularizer", "Penalty"]


class Penalty(NamedTuple):
    """The weighted penalties of one forward pass: scalars with gradients, None where the weight is 0."""

    per_token: Tensor | None  # cosine and mse: sums over the blocks of means over the real tokens
    linearity: Tensor | None  # a property of the batch: not a mean over tokens


class LinearityRegularizer:
    """Hooks on a decoder that collect the penalty of every training forward.

        regularizer = LinearityRegularizer(model, cosine=0.1)
        out = model(**batch)
        (out.loss + regularizer.loss()).backward()

    Only forwards in training mode with gradients enabled are recorded. Each of them starts anew, so call `loss()`
    before the next one (under gradient accumulation: for each micro-batch). With all weights 0 nothing is hooked and
    `loss()` is 0: the run is bit for bit the one without.

    The hooks sit around each block, outside gradient checkpointing where it wraps a block's `forward`, as transformers
    5.23 does. Where it wraps the call itself (5.17) they would run once more in backward: that is refused. With
    checkpointing the last block runs forward one time more, so that its output need not be held; it is held where the
    block draws random numbers or carries hooks of others, or torch.distributed is on. With torch.compile make the
    regularizer first; the graph breaks at each block.

    Args:
        model: any decoder that `find_decoder` takes. Wrap it for DistributedDataParallel before or after.
        cosine: weight of 1 − cos.
        mse: weight of the squared distance.
        linearity: weight of 1 − s: above 0 training raises linearity, below 0 it lowers it. Needs 4·d real tokens in
            every batch, and about 10·n·d² FLOP a block where the block's own training takes 72·n·d².
        running: for smaller batches: the decay, such as 0.99, of moments over past batches, on which the maps are
            fitted in place of the batch itself; n / (1 − running) of n real tokens must be 4·d or more. 8·d² bytes a
            block (16·d² for float64 states). Until they hold 4·d tokens, the term has no gradient. Each process keeps
            moments of its own, and they begin anew with each regularizer.

    Raises:
        LinscoreError: for a weight that is not finite or a model without a list of blocks; in the forward pass, for too
            few tokens, an attention mask that is not `[B, T]`, or a way of running the blocks that would give wrong
            gradients.

    Examples:
        >>> regularizer = linscore.LinearityRegularizer(model.train(), cosine=0.5)
        >>> loss = model(batches[0], labels=batches[0]).loss
        >>> penalty = regularizer.loss()
        >>> (loss + penalty).backward()
        >>> bool(penalty > 0)
        True
        >>> regularizer.remove()
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        cosine: float = 0.0,
        mse: float = 0.0,
        linearity: float = 0.0,
        running: float | None = None,
    ) -> None:
        weights = {"cosine": cosine, "mse": mse, "linearity": linearity}
        for name, weight in weights.items():
            if not math.isfinite(weight):
                raise LinscoreError(f"the weight {name} is {weight}: give a finite number, 0 to leave it out")
        if running is not None and not 0 < running < 1:
            raise LinscoreError(f"running is {running}: give a decay between 0 and 1, such as 0.99, or none")
        self.model, self.weights = model, weights
        self._moments = BlockMoments(running)
        self._open: _Forward | None = None  # while the decoder runs
        self._done: _Forward | None = None
        self._terms: dict[str, Tensor] = {}
        self._hooks: list[Any] = self._attach() if any(weights.values()) else []

    def loss(self) -> Tensor:
        """The weighted penalty of the last training forward, a scalar; it can be taken once.

        Raises:
            LinscoreError: when there was no training forward since.
        """
        parts = [part for part in self.penalty() if part is not None]
        return torch.stack([part.to(parts[0].device) for part in parts]).sum() if parts else torch.zeros(())

    def penalty(self) -> Penalty:
        """`loss()` in its parts, which scale differently when batches are accumulated.

        Raises:
            LinscoreError: as `loss`.
        """
        if not any(self.weights.values()):
            return Penalty(None, None)
        if self._done is None:
            raise LinscoreError(
                "there is no penalty to take: run the model once in training mode with gradients enabled before each "
                "loss(), and do not remove() the regularizer before"
            )
        forward, self._done = self._done, None
        self._terms = forward.terms()
        linearity = self.weights["linearity"] * forward.nonlinearity() if forward.scores else None
        return Penalty(forward.chain.loss() if forward.chain else None, linearity)

    def terms(self) -> dict[str, Tensor]:
        """Unweighted means over blocks and real tokens of the last training forward, for logs: detached scalars.

        `cosine` and `mse` as `Chain.terms`, `linearity` (s); those of weight 0 may be missing.
        """
        return self._terms if self._done is None else self._done.terms()

    def remove(self) -> None:
        """Take the hooks off the model; what was recorded is dropped."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._open, self._done = [], None, None

    def __enter__(self) -> LinearityRegularizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _attach(self) -> list[Any]:
        decoder = find_decoder(self.model)
        first, last = decoder.blocks[0], decoder.blocks[-1]
        return [
            decoder.backbone.register_forward_pre_hook(self._start, with_kwargs=True),
            first.register_forward_pre_hook(self._enter, with_kwargs=True),
            last.register_forward_pre_hook(self._enter_last, with_kwargs=True),
            *(block.register_forward_hook(self._leave) for block in decoder.blocks),
            # Also after an error: states of a broken forward must not meet those of the next.
            decoder.backbone.register_forward_hook(self._finish, always_call=True),
        ]

    @torch.compiler.disable
    def _start(self, backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._open = None
        if backbone.training and torch.is_grad_enabled():
            if getattr(backbone, "_is_replica", False):
                raise LinscoreError("DataParallel runs copies of the model: use DistributedDataParallel (torchrun)")
            self._done = None
            self._open = _Forward(self.weights, _token_mask(backbone.forward, args, kwargs), self._moments)

    @torch.compiler.disable
    def _enter(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._recording(block):
            return None
        tapped = self._tap(entering_state(args, kwargs))
        if "hidden_states" in kwargs:
            return args, {**kwargs, "hidden_states": tapped}
        return (tapped, *args[1:]), kwargs

    @torch.compiler.disable
    def _enter_last(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Under checkpointing memory peaks while the last block is run again: that its output is gone by then is all
        # it takes, for every earlier block needs one state less.
        if not self._recording(block):
            return
        assert self._open is not None
        if self._open.chain is not None and can_rerun(block, [hook.id for hook in self._hooks]):
            self._open.rerun = Rerun(block, args, kwargs)

    @torch.compiler.disable
    def _leave(self, block: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if not self._recording(block):
            return None
        tapped = self._tap(first_tensor(output))
        return tapped if isinstance(output, Tensor) else type(output)((tapped, *output[1:]))

    @torch.compiler.disable
    def _finish(self, _backbone: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if self._open is not None and output is not None:
            self._open.previous = None
            self._done = self._open
        self._open = None

    def _recording(self, block: nn.Module) -> bool:
        again = torch._C._current_graph_task_id() != -1  # in backward; torch.utils.checkpoint asks in the same way
        hidden = self._open is not None and (not torch.is_grad_enabled() or _checkpoints_its_call(block))
        if again or hidden:
            raise LinscoreError(
                "gradient checkpointing runs whole block calls again, with their hooks, which would give wrong "
                "gradients: upgrade transformers (5.23 is known to be right), or train without gradient checkpointing"
            )
        return self._open is not None

    def _tap(self, h: Tensor) -> Tensor:
        assert self._open is not None
        return self._open.add(h)


@dataclass
class _Forward:
    """What one forward pass has shown so far."""

    weights: dict[str, float]
    mask: Tensor | None  # [B, T], nonzero for real tokens
    moments: BlockMoments
    chain: Chain | None = field(init=False, default=None)
    scores: list[Tensor] = field(init=False, default_factory=list)
    previous: Tensor | None = field(init=False, default=None)
    rerun: Rerun | None = field(init=False, default=None)  # of the block that is running
    rows: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        cosine, mse = self.weights["cosine"], self.weights["mse"]
        if cosine or mse:
            self.chain = Chain(cosine=cosine, mse=mse, mask=self.mask)
        if self.weights["linearity"] and self.mask is not None:
            self.rows = self.mask.flatten().nonzero()[:, 0]

    def add(self, h: Tensor) -> Tensor:
        """The next state of the residual stream, `[B, T, d]`, as it is to go on."""
        rerun, self.rerun = self.rerun, None
        if self.chain is not None:
            h = tap(h, self.chain, rerun if rerun and rerun.is_exact() else None)
        if self.weights["linearity"]:
            self._score(h)
        return h

    def _score(self, h: Tensor) -> None:
        rows = None if self.rows is None else self.rows.to(h.device)
        if self.previous is None:
            self.moments.check(math.prod(h.shape[:-1]) if rows is None else len(rows), h.shape[-1])
        else:
            running = self.moments.of(len(self.scores))
            score = batch_linearity(self.previous.to(h.device), h, rows, running=running)
            early = running is not None and running.rows < ROWS_PER_FEATURE * h.shape[-1]
            self.scores.append(score.detach() if early else score)
        self.previous = h

    def nonlinearity(self) -> Tensor:
        """Σ (1 − s)."""
        return (1 - self._stacked()).sum()

    def terms(self) -> dict[str, Tensor]:
        terms = self.chain.terms()._asdict() if self.chain else {}
        return terms | ({"linearity": self._stacked().detach().mean()} if self.scores else {})

    def _stacked(self) -> Tensor:
        return torch.stack([score.to(self.scores[0].device) for score in self.scores])


def _token_mask(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """`attention_mask` `[B, T]` of a call, None where nothing is padded."""
    mask = kwargs.get("attention_mask")
    if args:
        mask = inspect.signature(forward).bind_partial(*args, **kwargs).arguments.get("attention_mask", mask)
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        raise LinscoreError("which tokens are padding cannot be told: give attention_mask as a tensor [B, T], or none")
    return mask


def _checkpoints_its_call(block: nn.Module) -> bool:
    """Whether checkpointing wraps this block's call, hooks included, instead of its forward (transformers 5.17)."""
    active = block.training and getattr(block, "gradient_checkpointing", False)
    return active and type(block).__call__ is not nn.Module.__call__
