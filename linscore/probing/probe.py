"""Cross-validated logistic probes, one per layer (paper: figure 5).

The regularization is scikit-learn's C = 1 on standardized features, the same in every layer. Choosing C out of four by
an inner cross-validation takes 5 to 11 times as long (features of the built-in decoder and of a 260k-parameter Llama,
tried by hand). On CommitmentBank it moved accuracies by −.044 to +.012, less than their spread over the folds. On 800
texts of BoolQ, of which these decoders know nothing, it picked the C that always answers the majority class: accuracy
up from .55 – .62 to the majority's .63, macro F1 down from up to .52 to .39. With C = 1 nothing to read out shows as an
accuracy at or below the majority's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from linscore.errors import LinscoreError
from linscore.files.json_file import json_text
from linscore.machine.processes import ALONE, Processes

__all__ = ["FOLDS", "LayerProbe", "Probing", "check_classes", "probe_layers"]

FOLDS = 5
SCORES = ("accuracy", "f1_macro")
ITERATIONS = 1000


@dataclass(frozen=True, kw_only=True)
class LayerProbe:
    """How well a linear probe tells the classes apart; means and sample standard deviations over the folds.

    Attributes:
        layer: l of h_l: 0 are the embeddings, L is what leaves the last block, before the final norm.
        accuracy: share of held-out texts whose class is right, in [0, 1].
        accuracy_std: over the folds.
        macro_f1: mean over the classes of the F1 on held-out texts, in [0, 1].
        macro_f1_std: over the folds.
        converged: whether the fit came to an end in every fold.
    """

    layer: int
    accuracy: float
    accuracy_std: float
    macro_f1: float
    macro_f1_std: float
    converged: bool


@dataclass(frozen=True, kw_only=True)
class Probing:
    """The probes of all layers of one model on one file of labelled texts.

    Attributes:
        model: Hub name, folder or "embedded".
        data: the file.
        text_field: its column, or columns separated by commas, of the text.
        label_field: its column of the label.
        pool: "last" or "mean", how a text's states become one vector.
        texts: how many there are.
        truncated: how many of them were longer than `longest`.
        longest: tokens of a text that were read at most.
        classes: how many texts each class has.
        majority: the accuracy of answering the most frequent class always.
        folds: of the stratified cross-validation.
        seed: of the shuffle before it.
        width: d.
        layers: one probe per state, h_0 to h_L.
        versions: of what the figures depend on.
    """

    model: str
    data: str
    text_field: str
    label_field: str
    pool: str
    texts: int
    truncated: int
    longest: int
    classes: dict[str, int]
    majority: float
    folds: int
    seed: int
    width: int
    layers: list[LayerProbe]
    versions: dict[str, str]

    def to_json(self, folder: str | Path | None = None) -> str:
        """The text of `probe.json` in `folder`, absolute paths as they lie from there; None: as typed."""
        return json_text(asdict(self), folder)


def check_classes(labels: Sequence[str]) -> dict[str, int]:
    """How many texts each class has, the most frequent first.

    Raises:
        LinscoreError: there are not two classes, or one has fewer texts than there are folds.
    """
    classes = dict(Counter(labels).most_common())
    if len(classes) < 2:
        raise LinscoreError(f"every label is {labels[0]!r}: a probe needs two classes or more, check `label_field`")
    rarest = min(classes, key=classes.__getitem__)
    if classes[rarest] < FOLDS:
        raise LinscoreError(
            f"class {rarest!r} has {classes[rarest]} of {len(labels)} texts, but {FOLDS} folds need {FOLDS} of each of "
            f"the {len(classes)} classes: give more, leave the class out, or check `label_field`"
        )
    return classes


def probe_layers(
    states: Tensor, labels: Sequence[str], *, seed: int = 0, processes: Processes = ALONE
) -> list[LayerProbe]:
    """Fit and test a probe on every layer: standardized features, multinomial logistic regression with an L2 penalty.

    Args:
        states: [L + 1, n, d] float32, finite (see `text_features`); one layer at a time is copied in float64.
        labels: n classes.
        seed: of the shuffle that deals the texts to `FOLDS` stratified folds, the same ones for all layers.
        processes: share the layers, and each gets all probes.

    Raises:
        LinscoreError: see `check_classes`.
    """
    check_classes(labels)
    classes = np.asarray(labels)
    return processes.each([partial(_probe, layer, of_layer, classes, seed) for layer, of_layer in enumerate(states)])


def _probe(layer: int, states: Tensor, classes: np.ndarray, seed: int) -> LayerProbe:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_validate
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = cross_validate(
        make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=ITERATIONS)),
        states.double().numpy(),
        classes,
        cv=StratifiedKFold(FOLDS, shuffle=True, random_state=seed),
        scoring=SCORES,
        return_estimator=True,
        error_score="raise",
    )
    accuracy, macro_f1 = (found[f"test_{name}"] for name in SCORES)
    return LayerProbe(
        layer=layer,
        accuracy=float(accuracy.mean()),
        accuracy_std=float(accuracy.std(ddof=1)),
        macro_f1=float(macro_f1.mean()),
        macro_f1_std=float(macro_f1.std(ddof=1)),
        converged=all(_converged(pipeline[-1]) for pipeline in found["estimator"]),
    )


def _converged(fitted: Any) -> bool:
    return bool(fitted.n_iter_.max() < ITERATIONS)
