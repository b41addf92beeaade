"""Losses of distillation, against plain formulas and transformers' own hidden states."""

import copy

import pytest
import torch
from distilling import PAIRS, batches, distil, expected, linear_student
from tiny_models import tiny

from linscore.decoder.find import find_decoder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "falcon", "gemma2", "gpt_neox"])
def test_losses_are_those_of_the_formulas(family):
    teacher = tiny(family)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in find_decoder(student).blocks[0].parameters():
            parameter.mul_(1.1)
    data = batches(1)
    hidden, kl, lm = expected(student, teacher, data[0]["input_ids"], {0: 0, 1: 1})
    (loss,) = distil(student, teacher, data, pairs={0: 0, 1: 1}, steps=1, hidden=2, kl=0.5, lm=0.1)
    assert (loss.hidden, loss.kl, loss.lm) == pytest.approx((hidden, kl, lm), rel=2e-5)
    assert loss.loss == pytest.approx(2 * hidden + 0.5 * kl + 0.1 * lm, rel=2e-5)
    assert (loss.step, loss.tokens) == (1, 24)


def test_a_pair_may_join_blocks_of_unlike_index(teacher):
    student, ids = copy.deepcopy(teacher), batches(1)[0]["input_ids"]
    hidden = expected(student, teacher, ids, {0: 1})[0]
    (loss,) = distil(student, teacher, batches(1), pairs={0: 1}, steps=1)
    assert loss.hidden == pytest.approx(hidden, rel=1e-5)
    assert (loss.kl, loss.lm) == (None, None)


def test_the_last_block_is_met_before_the_final_norm(teacher):
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student.model.norm.weight.mul_(3)
    before = copy.deepcopy(student.state_dict())
    (loss,) = distil(student, teacher, batches(1), pairs={2: 2}, steps=1)
    assert loss.hidden == 0
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_counts_nowhere(teacher, side):
    student = linear_student(teacher)
    ids = batches(1)[0]["input_ids"]
    real = torch.ones_like(ids)
    real[1, :5] = 0
    real = real if side == "left" else real.flip(1)
    whole = expected(student, teacher, ids, PAIRS, real)
    curves = []
    for filler in (3, 40):
        data = [{"input_ids": torch.where(real.bool(), ids, filler), "attention_mask": real}]
        trained = copy.deepcopy(student)
        curves.append(distil(trained, teacher, data, pairs=PAIRS, steps=3, kl=1, lm=1))
        first = curves[-1][0]
        assert (first.hidden, first.kl, first.lm) == pytest.approx(whole, rel=2e-5)
        assert first.tokens == 19
    assert [loss.loss for loss in curves[0]] == pytest.approx([loss.loss for loss in curves[1]], rel=1e-5)


def test_no_head_runs_for_hidden_states_alone(teacher):
    student = linear_student(teacher)
    for model in (student, teacher):
        model.lm_head.register_forward_hook(lambda *_: pytest.fail("the head ran"))
    distil(student, teacher, batches(), pairs=PAIRS, steps=1)
