"""The regularizer inside transformers' Trainer, scaled as its own loss is: accumulation and processes change nothing.

With n_i real tokens (attention mask) in micro-batch i, N of them in the accumulated batch, G micro-batches in it, P
processes, and p_i, l_i the penalties of `LinearityRegularizer.penalty` per token and by linearity:

    added to micro-batch i:   w_i p_i + l_i / G      w_i = P · n_i / N   where the Trainer knows `num_items_in_batch`
                                                     w_i = 1 / G         where it does not

Gradients are averaged over processes, hence P, and N runs over all of them; without `average_tokens_across_devices`
P is 1 and N the process's own. So p is the exact mean over the accumulated batch's real tokens in the first case, and
a mean of micro-batch means, as the Trainer's own loss is then, in the second. l is always a mean over micro-batches.
Where the Trainer divides the loss by G afterwards, all this is multiplied by G before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerControl

from linscore.regularization.regularizer import LinearityRegularizer

__all__ = ["LinearityRegularizerMixin", "RegularizedTrainer", "log_beside"]


# For mypy the mixin is a Trainer; when it runs it stands before any Trainer class, trl's too.
if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class LinearityRegularizerMixin(_Base):
    """Adds the penalty of `LinearityRegularizer` to the loss of a Trainer, in training only.

        class MyTrainer(LinearityRegularizerMixin, SFTTrainer): ...
        MyTrainer(model, args, train_dataset=…, cosine=0.1).train()

    Beside `loss`, of which it is a part, each log holds `regularizer`, the mean of what was added, and the unweighted
    means `cosine`, `mse` and `linearity` of those that are used (see `LinearityRegularizer.terms`). Hooks are on the
    model only while `train` runs. Not for sequence or context parallelism.

    Args:
        args: what the Trainer takes.
        cosine: weight of 1 − cos.
        mse: weight of the squared distance.
        linearity: weight of 1 − linearity; needs 4·d real tokens in each micro-batch, or `running`.
        running: decay of the moments that the linearity term is fitted on. See `LinearityRegularizer`.
        kwargs: what the Trainer takes.

    Raises:
        LinscoreError: as `LinearityRegularizer`.

    Examples:
        >>> class MyTrainer(linscore.LinearityRegularizerMixin, Trainer): ...
        >>> args = TrainingArguments("run", max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True)
        >>> rows = [{"input_ids": row, "labels": row} for row in batches[0]]
        >>> trainer = MyTrainer(model, args, train_dataset=rows, cosine=0.1)
        >>> trainer.train().global_step
        {'train_runtime': ...
        1
    """

    def __init__(
        self,
        *args: Any,
        cosine: float = 0.0,
        mse: float = 0.0,
        linearity: float = 0.0,
        running: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._weights, self._running = {"cosine": cosine, "mse": mse, "linearity": linearity}, running
        self.regularizer = self._new_regularizer()
        self.regularizer.remove()  # what is wrong with model or weights is known now
        self._tokens: Tensor | None = None  # N
        self._sums: dict[str, Tensor] = {}  # since the last log

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's own."""
        self._attach()  # before the model is compiled
        try:
            return super().train(*args, **kwargs)
        finally:
            self.regularizer.remove()

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """As the Trainer's own."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._tokens = None if items is None else self._count(samples, device)
        return samples, items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """As the Trainer's own, plus the penalty while `model` is trained."""
        training = model.training and torch.is_grad_enabled() and any(self._weights.values())
        if training and self.regularizer.model is not self.model:
            self._attach()  # `model_init` made a new one
        tokens = _real_tokens(inputs)  # the Trainer's own may take inputs out
        # trl's runs the model once more for outputs that are asked for.
        asked: dict[str, Any] = {"return_outputs": return_outputs, "num_items_in_batch": num_items_in_batch}
        found: Any = super().compute_loss(model, inputs, **asked)
        loss, *outputs = found if return_outputs else (found,)
        if training:
            loss = loss + self._added(tokens, num_items_in_batch).to(loss.device)
        return (loss, *outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the Trainer's own, with the penalty and its terms beside `loss`."""
        if "loss" in logs and self._sums:
            names = list(self._sums)
            means = self.accelerator.reduce(torch.stack([self._sums[name].double() for name in names]), "mean")
            steps, *figures = means.tolist()
            logs = {**logs, **{name: figure / steps for name, figure in zip(names[1:], figures, strict=True)}}
            self._sums = {}
        super().log(logs, *args, **kwargs)

    def _attach(self) -> None:
        self.regularizer.remove()
        self.regularizer = self._new_regularizer()

    def _new_regularizer(self) -> LinearityRegularizer:
        assert self.model is not None
        return LinearityRegularizer(self.model, **self._weights, running=self._running)

    def _added(self, tokens: Tensor | None, items: Tensor | int | None) -> Tensor:
        """What is added to the loss of one micro-batch; kept for the log."""
        penalty, terms = self.regularizer.penalty(), self.regularizer.terms()
        count: float = self.current_gradient_accumulation_steps
        share: Any = 1 / count
        if items is not None and tokens is not None and self._tokens is not None:
            share = self._processes * tokens / self._tokens.to(tokens.device)
        parts = [(share, penalty.per_token), (1 / count, penalty.linearity)]
        added = torch.stack([weight * part for weight, part in parts if part is not None]).sum()
        self._keep("steps", torch.tensor(1 / count))
        self._keep("regularizer", added)
        for name, value in terms.items():
            self._keep(name, value * (1 / count if name == "linearity" else share))
        return added if self._loss_is_scaled(items) else added * count

    def _keep(self, name: str, value: Tensor) -> None:
        value = value.detach().to(self.args.device)
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _loss_is_scaled(self, items: Tensor | int | None) -> bool:
        """Whether the Trainer takes the loss as it is, and does not divide it by the number of micro-batches."""
        said = getattr(self, "loss_is_scaled_for_ga", None)  # not in transformers 5.17
        if said is not None:
            return said
        return (self.model_accepts_loss_kwargs and items is not None) or self.compute_loss_func is not None

    @property
    def _processes(self) -> int:
        return self.accelerator.num_processes if self.args.average_tokens_across_devices else 1

    def _count(self, samples: list[Any], device: torch.device) -> Tensor | None:
        """N."""
        counts = [_real_tokens(batch) for batch in samples]
        known = [count.to(device) for count in counts if count is not None]
        if not known or len(known) < len(counts):
            return None
        total = torch.stack(known).sum()
        several = self.args.average_tokens_across_devices and self.args.world_size > 1
        return self.accelerator.gather(total).sum() if several else total


class RegularizedTrainer(LinearityRegularizerMixin, Trainer):
    """transformers' Trainer with a linearity regularizer: see `LinearityRegularizerMixin`.

    Examples:
        >>> args = TrainingArguments("run", max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True)
        >>> rows = [{"input_ids": row, "labels": row} for row in batches[0]]
        >>> trainer = linscore.RegularizedTrainer(model, args, train_dataset=rows, mse=0.01)
        >>> trainer.train().global_step
        {'train_runtime': ...
        1
    """


def log_beside(trainer: Trainer, control: TrainerControl, figures: dict[str, float]) -> None:
    """Log figures in a step whose loss is perhaps still to be logged: logging takes the wish for it back.

    Not by the `log` of a class of its own: trl's empty the metrics of the steps since the last log.
    """
    wanted = control.should_log
    Trainer.log(trainer, figures)
    control.should_log = wanted


def _real_tokens(batch: Mapping[str, Any]) -> Tensor | None:
    """How many tokens of a batch are real: by its mask, else all; None for a batch without mask and ids."""
    mask, ids = batch.get("attention_mask"), batch.get("input_ids")
    if isinstance(mask, Tensor):
        return (mask != 0).sum()
    return torch.tensor(ids.numel(), device=ids.device) if isinstance(ids, Tensor) else None
