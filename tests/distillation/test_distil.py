"""Training a student: its steps, its learning rate, its batches, and what stops it."""

import copy
import math

import numpy as np
import pytest
import torch
from distilling import LINEAR, PAIRS, batches, distil, linear_student, states
from tiny_models import WIDTH, tiny

from linscore.errors import LinscoreError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_the_least_squares_map_is_found_again(teacher):
    """All that a linear block can reach is what scikit-learn's regression leaves."""
    from sklearn.linear_model import LinearRegression

    data = batches(1, rows=8, length=24)
    ids = data[0]["input_ids"]
    x, y = (states(teacher, ids, index)[0].reshape(-1, WIDTH) for index in (0, 1))
    best = np.mean((LinearRegression().fit(x, y).predict(x) - y) ** 2) / np.mean((y - y.mean(0)) ** 2)
    student = linear_student(teacher, size=0.2)
    curve = distil(student, teacher, data, pairs=PAIRS, steps=100, parameters=LINEAR, learning_rate=0.1)
    assert curve[0].hidden > 2 * best
    assert best * (1 - 1e-4) <= curve[-1].hidden <= best * 1.02


def test_the_first_update_is_that_of_adam(teacher):
    """Adam's first step moves each entry by the learning rate against the sign of its gradient."""
    student, data = linear_student(teacher), batches(1)
    before = student.model.layers[1].weight.detach().clone()
    distil(student, teacher, data, pairs=PAIRS, steps=1, parameters=LINEAR, learning_rate=0.01, warmup=0)
    moved = (student.model.layers[1].weight.detach() - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=0.02, atol=0)


def test_the_learning_rate_warms_up_and_follows_a_cosine(teacher):
    curve = distil(linear_student(teacher), teacher, batches(), pairs=PAIRS, steps=6, warmup=2, learning_rate=0.1)
    cosine = [0.1 * (1 + math.cos(math.pi * part / 4)) / 2 for part in range(4)]
    assert [loss.learning_rate for loss in curve] == pytest.approx([0.05, 0.1, *cosine])


def test_batches_are_taken_in_order_and_again(teacher):
    data = batches(2)
    frozen = {"pairs": PAIRS, "parameters": LINEAR, "learning_rate": 1e-30}
    curve = distil(linear_student(teacher), teacher, data, steps=5, **frozen)
    again = distil(linear_student(teacher), teacher, lambda: iter(data), steps=5, **frozen)
    assert curve == again
    first, second, *rest = [loss.hidden for loss in curve]
    assert first != second
    assert rest == [first, second, first]


def test_batches_may_be_plain_tensors(teacher):
    curves = [
        distil(linear_student(teacher), teacher, data, pairs=PAIRS, steps=4, kl=1, lm=1)
        for data in (batches(), [batch["input_ids"] for batch in batches()])
    ]
    assert curves[0] == curves[1]


def test_a_loss_that_is_not_finite_stops_and_names_the_last_good_checkpoint(teacher, tmp_path):
    broken = copy.deepcopy(teacher)

    def break_later(loss):
        if loss.step == 3:
            broken.model.layers[0].mlp.down_proj.weight.data.fill_(torch.nan)

    student = linear_student(teacher)
    with pytest.raises(LinscoreError, match=r"nan at step 4.*learning rate.*step_2"):
        distil(
            student,
            broken,
            batches(),
            pairs=PAIRS,
            steps=9,
            parameters=LINEAR,
            folder=tmp_path,
            save_every=2,
            progress=break_later,
        )
    assert len((tmp_path / "losses.jsonl").read_text().splitlines()) == 3
    assert all(parameter.isfinite().all() for parameter in student.parameters())
    with pytest.raises(LinscoreError, match=r"nan at step 1.*no checkpoint"):
        distil(student, broken, batches(), pairs=PAIRS, steps=1)


def test_a_gradient_that_is_not_finite_stops_before_it_does_harm(teacher):
    student = linear_student(teacher)
    before = copy.deepcopy(student.state_dict())
    student.model.layers[1].weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(LinscoreError, match="gradient is not finite at step 1"):
        distil(student, teacher, batches(), pairs=PAIRS, steps=2)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_curve(reentrant):
    teacher = tiny("llama")
    students = [linear_student(teacher).train() for _ in range(2)]
    students[1].gradient_checkpointing_enable({"use_reentrant": reentrant})
    students[1].enable_input_require_grads()
    curves = [distil(student, teacher, batches(), pairs=PAIRS, steps=3, kl=1) for student in students]
    assert [loss.loss for loss in curves[0]] == pytest.approx([loss.loss for loss in curves[1]], rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "`steps` is 0"),
        ({"learning_rate": 0}, "`learning_rate` is 0"),
        ({"learning_rate": math.nan}, "`learning_rate` is nan"),
        ({"hidden": -1}, "weights of 0 or more"),
        ({"hidden": 0}, "no loss to train on"),
        ({"pairs": {}}, "no loss to train on"),
        ({"pairs": {3: 1}}, "student has no blocks"),
        ({"pairs": {1: 3}}, "teacher has no blocks"),
        ({"warmup": 3}, "`warmup` is 3"),
        ({"parameters": ["lm_tail.weight"]}, "lm_tail.weight"),
        ({"parameters": []}, "no parameter to train"),
        ({"parameters": ["model.layers.2.mlp.up_proj.weight"]}, "does not depend"),
        ({"save_every": 1}, "give a folder"),
        ({"resume": True}, "give a folder"),
    ],
)
def test_bad_arguments_are_one_line(teacher, changes, words):
    student = linear_student(teacher)
    with pytest.raises(LinscoreError, match=words) as caught:
        distil(student, teacher, batches(), **{"pairs": PAIRS, "steps": 2} | changes)
    assert "\n" not in str(caught.value)
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_batches_that_cannot_be_used_are_refused(teacher):
    for data, words in (
        ([], "there is no batch"),
        (iter(batches(2)), "only 2 batches"),
        ([{"input_ids": torch.ones(1, 4).long(), "attention_mask": torch.zeros(1, 4).long()}], "all padding"),
        ([torch.ones(4).long()], r"token ids \[B, T\]"),
        ([{"labels": torch.ones(1, 4).long()}], r"token ids \[B, T\]"),
    ):
        with pytest.raises(LinscoreError, match=words):
            distil(linear_student(teacher), teacher, data, pairs=PAIRS, steps=3)
