"""The regularizer against plain autograd on hidden states."""

import numpy as np
import pytest
import torch
from formulas import BLOCKS
from regularizing import LENGTH, ROWS, WEIGHTS, assert_same, gradients, padded, plain, regularized, tokens
from tiny_models import tiny

from linscore.errors import LinscoreError
from linscore.regularization.regularizer import LinearityRegularizer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("family", BLOCKS)
def test_loss_and_gradients_are_those_of_the_formula(family, side):
    single = (family, side) == ("mpt", "left")  # transformers' own states are NaN there in float64
    model = tiny(family).to(torch.float32 if single else torch.float64).train()
    mask = None if side is None else padded(side)
    wanted = plain(model, family, mask, **WEIGHTS)
    with LinearityRegularizer(model, **WEIGHTS) as regularizer:
        assert_same(regularized(model, regularizer, mask), wanted, rtol=1e-3 if single else 1e-9)


@pytest.mark.parametrize("name", WEIGHTS)
def test_each_penalty_by_itself_and_its_term(name):
    model = tiny("llama").double().train()
    wanted = plain(model, "llama", padded(), **{name: 0.5})
    unweighted = plain(model, "llama", padded(), **{name: 1.0})[0] - plain(model, "llama", padded())[0]
    with LinearityRegularizer(model, **{name: 0.5}) as regularizer:
        assert_same(regularized(model, regularizer, padded()), wanted)
        term = regularizer.terms()[name]
    assert not term.requires_grad
    mean = float(unweighted) / 3
    assert float(term) == pytest.approx(1 - mean if name == "linearity" else mean, rel=1e-5)


@pytest.mark.parametrize("weight", [2.0, -2.0])
def test_the_sign_says_whether_linearity_rises_or_falls(weight):
    model = tiny("llama").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    curve = []
    with LinearityRegularizer(model, linearity=weight) as regularizer:
        for _ in range(4):
            model(input_ids=tokens())
            regularizer.loss().backward()
            optimizer.step()
            optimizer.zero_grad()
            curve.append(float(regularizer.terms()["linearity"]))
    assert (np.diff(curve) * weight > 0).all()


def test_only_training_forwards_are_recorded():
    model = tiny("llama")
    with LinearityRegularizer(model, **WEIGHTS) as regularizer:
        model(input_ids=tokens())
        with torch.no_grad():
            model.train()(input_ids=tokens())
        with pytest.raises(LinscoreError, match="training mode"):
            regularizer.loss()
        model(input_ids=tokens())
        model.eval()(input_ids=tokens(1))
        regularizer.loss()
        with pytest.raises(LinscoreError, match="before each"):
            regularizer.loss()


def test_micro_batches_add_up():
    model = tiny("llama").double().train()
    one = plain(model, "llama", **WEIGHTS)[1]
    with LinearityRegularizer(model, **WEIGHTS) as regularizer:
        for _ in range(2):
            model(input_ids=tokens(5))  # a forward whose penalty nobody takes
            out = model(input_ids=tokens(), labels=tokens())
            (0.5 * (out.loss + regularizer.loss())).backward()
    assert all(torch.allclose(gradient, one[name], rtol=1e-5) for name, gradient in gradients(model).items())


def test_a_broken_forward_leaves_nothing_behind():
    model = tiny("llama").train()
    with LinearityRegularizer(model, linearity=1.0) as regularizer:
        with pytest.raises(
            LinscoreError, match=r"40 real tokens .* at least 128 tokens, running=0.99 .*, or use cosine"
        ):
            model(input_ids=tokens(rows=2))
        with pytest.raises(LinscoreError, match="before each"):
            regularizer.loss()
        model(input_ids=tokens())
        assert regularizer.loss().isfinite()


def test_padding_does_not_make_a_batch_large_enough():
    model, mask = tiny("llama").train(), padded()
    mask[4:, 10:] = 0
    with LinearityRegularizer(model, linearity=1.0), pytest.raises(LinscoreError, match="104 real tokens"):
        model(input_ids=tokens(), attention_mask=mask)


def test_frozen_embeddings_are_no_obstacle():
    model = tiny("llama").double().train()
    model.get_input_embeddings().requires_grad_(False)
    wanted = plain(model, "llama", **WEIGHTS)
    with LinearityRegularizer(model, **WEIGHTS) as regularizer:
        assert_same(regularized(model, regularizer), wanted)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(weight):
    with pytest.raises(LinscoreError, match=r"the weight mse is .*: give a finite number"):
        LinearityRegularizer(tiny("llama"), mse=weight)


def test_masks_that_are_not_read():
    model = tiny("llama").train()
    mask = torch.ones(ROWS, 1, LENGTH, LENGTH, dtype=torch.bool).tril()
    with (
        LinearityRegularizer(model, cosine=1.0),
        pytest.raises(LinscoreError, match=r"give attention_mask .* \[B, T\]"),
    ):
        model(input_ids=tokens(), attention_mask=mask)


def test_a_mask_given_by_position():
    model = tiny("llama").double().train()
    with LinearityRegularizer(model, cosine=1.0) as regularizer:
        model(input_ids=tokens(), attention_mask=padded())
        by_name = regularizer.loss()
        model(tokens(), padded())
        assert torch.equal(regularizer.loss(), by_name)
