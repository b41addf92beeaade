"""A student beside its teacher: what is measured of the pair, and which pairs there are none of."""

import copy

import numpy as np
import pytest
import torch
from distilling import PAIRS, batches, distil, expected, linear_student
from tiny_models import tiny
from torch import nn

from linscore.distillation.losses import Weights
from linscore.distillation.pair import measure
from linscore.errors import LinscoreError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_measuring_gives_means_of_the_formulas_and_changes_nothing(teacher, dtype):
    student, data = linear_student(teacher).to(dtype), batches(3)
    before = copy.deepcopy(student.state_dict())
    wide = copy.deepcopy(student).float()
    hidden, kl, lm = np.mean([expected(wide, teacher, batch["input_ids"], PAIRS) for batch in data], axis=0)
    found = measure(student, teacher, data, PAIRS, Weights(2.0, 0.5, 0.1))
    assert [found[name] for name in ("hidden", "kl", "lm")] == pytest.approx([hidden, kl, lm], rel=2e-5)
    assert found["loss"] == pytest.approx(2 * hidden + 0.5 * kl + 0.1 * lm, rel=2e-5)
    torch.testing.assert_close(student.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in student.parameters())
    assert measure(student, teacher, data, {}, Weights(0.0, 1.0))["hidden"] is None


def test_a_measured_loss_that_is_not_finite_is_one_line(teacher):
    student = linear_student(teacher)
    student.model.layers[1].bias.data.fill_(torch.inf)
    with pytest.raises(LinscoreError, match=r"the loss is (nan|inf)"):
        measure(student, teacher, batches(1), PAIRS, Weights())


def test_another_model_is_no_teacher(teacher):
    for other in (tiny("llama", vocab_size=65), tiny("llama", hidden_size=40)):
        with pytest.raises(LinscoreError, match="cut from"):
            distil(linear_student(teacher), other, batches(), pairs=PAIRS, steps=1)


def test_a_model_that_is_no_module_list_of_blocks_is_refused(teacher):
    with pytest.raises(LinscoreError, match="decoder-only"):
        distil(nn.Linear(2, 2), teacher, batches(), pairs=PAIRS, steps=1)
