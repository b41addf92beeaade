"""Which parameters distillation changes, and in which dtype."""

import copy

import pytest
import torch
from distilling import LINEAR, PAIRS, batches, distil, linear_student
from tiny_models import tiny

pytestmark = pytest.mark.usefixtures("one_thread")


def test_only_named_parameters_change_and_flags_and_modes_come_back(teacher):
    student = linear_student(teacher)
    student.lm_head.weight.requires_grad_(False)
    student.model.layers[0].train()
    teacher.model.layers[2].train()
    flags = {name: parameter.requires_grad for name, parameter in student.named_parameters()}
    modes = [[module.training for module in model.modules()] for model in (student, teacher)]
    before, original = copy.deepcopy(student.state_dict()), copy.deepcopy(teacher.state_dict())
    distil(student, teacher, batches(), pairs=PAIRS, steps=2, parameters=LINEAR, kl=1)
    changed = [name for name, value in student.state_dict().items() if not torch.equal(value, before[name])]
    assert sorted(changed) == sorted(LINEAR)
    assert all(torch.equal(value, original[name]) for name, value in teacher.state_dict().items())
    assert flags == {name: parameter.requires_grad for name, parameter in student.named_parameters()}
    assert modes == [[module.training for module in model.modules()] for model in (student, teacher)]
    assert all(parameter.grad is None for model in (student, teacher) for parameter in model.parameters())
    assert not any(module._forward_hooks for model in (student, teacher) for module in model.modules())


def test_all_parameters_are_trained_by_default(teacher):
    student = linear_student(teacher)
    before = copy.deepcopy(student.state_dict())
    distil(student, teacher, batches(), pairs=PAIRS, steps=1, kl=1)
    kept = {name for name, value in student.state_dict().items() if torch.equal(value, before[name])}
    assert kept == {"model.layers.1.center"}  # a buffer


@pytest.mark.slow
def test_bfloat16_is_trained_in_float32_and_rounded_once():
    """Updates far below bfloat16's rounding add up, and give what training the same numbers in float32 gives."""
    teacher = tiny("llama")
    student = linear_student(teacher).to(torch.bfloat16)
    wide = copy.deepcopy(student).float()
    given = {"pairs": PAIRS, "steps": 20, "parameters": LINEAR, "learning_rate": 1e-4}
    dtypes = {name: value.dtype for name, value in student.state_dict().items()}
    assert distil(student, teacher, batches(), **given) == distil(wide, teacher, batches(), **given)
    assert {name: value.dtype for name, value in student.state_dict().items()} == dtypes
    torch.testing.assert_close(student.state_dict(), wide.to(torch.bfloat16).state_dict(), rtol=0, atol=0)


def test_tied_parameters_are_trained_once(tmp_path):
    teacher = tiny("gpt2")
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student.transformer.wte.weight.mul_(1.1)
    given = {"pairs": {}, "kl": 1, "steps": 2, "parameters": ["lm_head.weight"], "folder": tmp_path}
    curve = distil(student, teacher, batches(), **given)
    assert student.lm_head.weight is student.transformer.wte.weight
    assert curve[0].hidden is None
    again = copy.deepcopy(teacher)
    distil(again, teacher, batches(), resume=True, **given)
    assert torch.equal(again.lm_head.weight, student.lm_head.weight)
