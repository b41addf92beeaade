"""An attention sink in a decoder: the first token of each text, a thousand times as long as the rest in every block.

Oracles: an SVD and scikit-learn in float64 on what hooks of the test's own saw.
"""

from functools import cache

import numpy as np
import pytest
import torch
from oracles import heldout_scores, svd_scores
from tiny_models import DEPTH, VOCABULARY, tiny
from torch import Tensor
from transformers import PreTrainedModel

from linscore import Report, Span, fit_fusion, score

pytestmark = pytest.mark.usefixtures("one_thread")
SINK, TEXTS, LENGTH = 1, 40, 13
FOLDS = torch.arange(TEXTS) % 2
FUSED = Span(2, 2)


@cache
def model() -> PreTrainedModel:
    """A Llama that hands a token on as long as it is: what blocks add does not grow with it."""
    llama = tiny("llama")
    with torch.no_grad():
        llama.model.embed_tokens.weight[SINK] *= 12000
    return llama


@cache
def ids() -> Tensor:
    tokens = torch.randint(3, VOCABULARY, (TEXTS, LENGTH), generator=torch.Generator().manual_seed(5))
    tokens[:, 0] = SINK
    return tokens


@cache
def seen() -> dict[str, Tensor]:
    """x and y of each block, and what enters the projection before the block that is fused, all tokens as rows."""
    found: dict[str, Tensor] = {}
    layers = model().model.layers

    def around(index: int):
        def keep(_block, args, kwargs, output):
            x = args[0] if args else kwargs["hidden_states"]
            found[f"x{index}"], found[f"y{index}"] = x.flatten(0, 1), output.flatten(0, 1)

        return keep

    hooks = [layer.register_forward_hook(around(index), with_kwargs=True) for index, layer in enumerate(layers)]
    projection = layers[FUSED.first - 1].mlp.down_proj
    hooks.append(projection.register_forward_hook(lambda _m, args, _out: found.update(m=args[0].flatten(0, 1))))
    with torch.no_grad():
        model().model(ids(), use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


@cache
def report() -> Report:
    batches = [{"input_ids": ids()[at : at + 8], "folds": FOLDS[at : at + 8]} for at in range(0, TEXTS, 8)]
    return score(model(), batches, precision="exact", spans=[Span(1, 2)], fuse=[FUSED])


LIGHT = (torch.arange(TEXTS * LENGTH) % LENGTH) > 0
OF_ROW = FOLDS.repeat_interleave(LENGTH)
PAIRS = [*((index, index) for index in range(DEPTH)), (1, 2)]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_scores_with_and_without_the_sinks_are_those_of_the_rows(pair: tuple[int, int]) -> None:
    first, last = pair
    figures = report().blocks[first] if first == last else report().spans[0]
    x, y = seen()[f"x{first}"], seen()[f"y{last}"]
    assert x[~LIGHT].norm(dim=-1).min() > 500 * x[LIGHT].norm(dim=-1).median()
    assert (figures.rows, figures.heavy_rows) == (TEXTS * LENGTH, TEXTS)
    assert figures.without_heavy is not None
    for of, rows in ((figures, torch.ones_like(LIGHT)), (figures.without_heavy, LIGHT)):
        found = (of.linearity, of.linearity_no_residual, of.linearity_heldout, of.linearity_no_residual_heldout)
        expected = svd_scores(x[rows], y[rows]) + heldout_scores(x[rows], y[rows], OF_ROW[rows])
        assert found == pytest.approx(expected, abs=2e-5)


def test_what_is_fused_is_the_least_squares_map_of_all_rows() -> None:
    fusion = fit_fusion(model(), FUSED, report().moments, ridge=None)
    states = seen()
    m = states["m"].double().numpy()
    delta = (states[f"y{FUSED.last}"].double() - states[f"x{FUSED.first}"].double()).numpy()
    weight = np.linalg.lstsq(m, delta, rcond=None)[0]
    error = m @ (fusion.weight.numpy() - weight)
    assert np.linalg.norm(error) < 1e-4 * np.linalg.norm(delta)
