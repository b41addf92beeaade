"""What can stand for a unit, from nothing to an affine map: fitted when it is first asked for, with what it saves."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from linscore.compression.choices import Form
from linscore.compression.trials import StandIn, stand_in
from linscore.spans import Unit
from linscore.statistics.maps import FittedMap, fit
from linscore.statistics.moments import Moments
from linscore.statistics.ridge import Regression
from linscore.statistics.sensitivity import expected_loss, no_map


def fit_form(regression: Regression, form: Form, ridge: float | str | None = "auto") -> FittedMap:
    """The best map of a form; a ridge is for those that read all features."""
    if form.kind in ("mean", "diagonal"):
        return fit(regression, kind=form.kind)
    return fit(regression, rank=form.rank, ridge=ridge)


class Row:
    """One unit: its maps by form.

    Args:
        unit: a block, or a part of one.
        moments: of what it reads and adds.
        like: a tensor with the dtype and the device of the decoder's weights.
        parameters: how many it holds.
        sensitivity: E[ggᵀ] at the state after it and the moments of what it adds, where gradients were taken.
    """

    def __init__(
        self,
        unit: Unit,
        moments: Moments,
        like: Tensor,
        parameters: int,
        sensitivity: tuple[Tensor, Moments] | None = None,
    ) -> None:
        self.unit, self.parameters = unit, parameters
        self.moments, self._like, self._sensitivity = moments, like, sensitivity
        self._fitted: dict[Form, FittedMap] = {}
        self._made: dict[Form, StandIn] = {}

    @cached_property
    def _regression(self) -> Regression:
        return Regression.of(self.moments)

    def fitted(self, form: Form) -> FittedMap | None:
        """The best map of this form; a rank takes the ridge of the full map. None where nothing stands for the unit."""
        if form.kind == "drop":
            return None
        if form not in self._fitted:
            ridge = "auto" if form.rank is None else self._full.ridge
            self._fitted[form] = fit_form(self._regression, form, ridge)
        return self._fitted[form]

    @property
    def _full(self) -> FittedMap:
        found = self.fitted(Form("affine"))
        assert found is not None
        return found

    def stand_in(self, form: Form) -> StandIn:
        """What is computed in its place: the same object each time."""
        if form not in self._made:
            self._made[form] = stand_in(self.fitted(form), self._like)
        return self._made[form]

    def holds(self, form: Form) -> int:
        """How many parameters are left."""
        fitted = self.fitted(form)
        return 0 if fitted is None else fitted.parameters

    def missed(self, form: Form) -> float:
        """The share of what the unit adds that a form misses, on other rows where there are any."""
        fitted = self.fitted(form)
        if fitted is None:
            return self._full.error_dropped or 1.0
        found = fitted.error if fitted.error_heldout is None else fitted.error_heldout
        return found or 0.0

    @property
    def has_gradients(self) -> bool:
        """Whether `expected` can be asked."""
        return self._sensitivity is not None

    def expected(self, form: Form) -> float:
        """What a form is expected to add to the loss by gradients, nats per token."""
        assert self._sensitivity is not None
        gradient, added = self._sensitivity
        fitted = self.fitted(form)
        if fitted is None:
            return expected_loss(gradient, self.moments, added, no_map(self._regression.whole))
        found = expected_loss(gradient, self.moments, added, fitted)
        # Of the rows that the map was fitted on; of others it misses more, by this much.
        return found * fitted.error_heldout / fitted.error if fitted.error and fitted.error_heldout else found
