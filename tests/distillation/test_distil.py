"""Distillation: losses against plain formulas, what it may change, and a curve that an interruption does not change."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from tiny_models import VOCABULARY, WIDTH, tiny
from torch import nn

from linscore.decoder.find import find_decoder
from linscore.distillation import distil as training
from linscore.distillation.losses import Weights
from linscore.distillation.pair import measure
from linscore.errors import LinscoreError
from linscore.statistics.affine import AffineMap
from linscore.surgery.linearize import linearize

pytestmark = pytest.mark.usefixtures("one_thread")

PAIRS = {1: 1}
LINEAR = ["model.layers.1.weight", "model.layers.1.bias"]
GPT2 = ["transformer.h.1.mlp.c_fc.weight", "transformer.wte.weight"]


def distil(*args, kl=0.0, **options):
    """On states alone, unless a test asks for more."""
    return training.distil(*args, kl=kl, **options)


def batches(count=3, rows=2, length=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [{"input_ids": torch.randint(VOCABULARY, (rows, length), generator=generator)} for _ in range(count)]


def linear_student(teacher, seed=0, size=0.05):
    """The teacher with a random affine map for block 1."""
    generator = torch.Generator().manual_seed(seed)
    b = size * torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    zero = torch.zeros(WIDTH, dtype=torch.float64)
    return linearize(teacher, {1: AffineMap(b, zero, zero)})


@pytest.fixture
def teacher():
    return tiny("llama")


def states(model, ids, index, mask=None):
    """What leaves block `index`; not for the last block, whose entry transformers norms."""
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    return output.hidden_states[index + 1].double().numpy(), output.logits.double().numpy()


def expected(student, teacher, ids, pairs, real=None):
    """Hidden, KL and cross entropy in float64 NumPy, with the states that transformers itself records."""
    real = np.ones(ids.shape, bool) if real is None else real.numpy().astype(bool)
    mask = None if real.all() else torch.tensor(real).long()
    hidden = 0.0
    for ours, theirs in pairs.items():
        h, target = states(student, ids, ours, mask)[0][real], states(teacher, ids, theirs, mask)[0][real]
        hidden += np.mean((h - target) ** 2) / np.mean((target - target.mean(0)) ** 2)
    log_q, log_p = (log_softmax(states(model, ids, 0, mask)[1], axis=-1) for model in (student, teacher))
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)[real].mean()
    lm = [
        -log_q[row, at, ids[row, at + 1]]
        for row in range(ids.shape[0])
        for at in range(ids.shape[1] - 1)
        if real[row, at] and real[row, at + 1]
    ]
    return hidden, kl, np.mean(lm)


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


def test_no_head_runs_for_hidden_states_alone(teacher):
    student = linear_student(teacher)
    for model in (student, teacher):
        model.lm_head.register_forward_hook(lambda *_: pytest.fail("the head ran"))
    distil(student, teacher, batches(), pairs=PAIRS, steps=1)


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


def kill_at(step):
    def progress(loss):
        if loss.step == step:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(tmp_path, mode):
    """Bit for bit, with dropout too: the random state is part of a checkpoint."""
    teacher = tiny("gpt2")
    given = {
        "pairs": PAIRS,
        "steps": 7,
        "kl": 0.5,
        "parameters": ["transformer.h.1.mlp.c_fc.weight", "transformer.wte.weight"],
    }
    students = [getattr(copy.deepcopy(teacher), mode)() for _ in range(3)]
    with torch.no_grad():
        for student in students:
            student.transformer.h[1].mlp.c_fc.weight.mul_(0.5)
    torch.manual_seed(1)
    whole = distil(students[0], teacher, batches(), **given)
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        distil(students[1], teacher, batches(), folder=tmp_path, save_every=2, progress=kill_at(5), **given)
    assert [path.name for path in tmp_path.glob("*step*")] == ["step_4"]
    assert len((tmp_path / "losses.jsonl").read_text().splitlines()) == 5
    torch.manual_seed(2)
    resumed = distil(students[2], teacher, batches(), folder=tmp_path, save_every=2, resume=True, **given)
    assert resumed == whole
    lines = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert lines == [vars(loss) for loss in whole]
    for name, value in students[0].state_dict().items():
        assert torch.equal(value, students[2].state_dict()[name]), name
    assert (students[1].training, students[2].training) == (mode == "train", mode == "train")


def test_a_checkpoint_holds_trained_parameters_only_and_the_older_one_goes(teacher, tmp_path):
    from safetensors.torch import load_file

    distil(
        linear_student(teacher),
        teacher,
        batches(),
        pairs=PAIRS,
        steps=4,
        parameters=LINEAR,
        folder=tmp_path,
        save_every=3,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["losses.jsonl", "step_4"]
    saved = load_file(tmp_path / "step_4" / "model.safetensors")
    assert sorted(name.removeprefix("student.") for name in saved) == sorted(LINEAR)


def test_a_checkpoint_that_was_being_written_is_no_checkpoint(teacher, tmp_path, monkeypatch):
    given = {"pairs": PAIRS, "steps": 4, "parameters": LINEAR, "folder": tmp_path, "save_every": 1}
    from accelerate import Accelerator

    save = Accelerator.save_state

    def full(self, folder):
        if folder.endswith("step_3"):
            save(self, folder)
            raise OSError("No space left on device")
        return save(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Accelerator, "save_state", full)
        with pytest.raises(OSError, match="No space"):
            distil(linear_student(teacher), teacher, batches(), **given)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_2"]
    resumed = distil(linear_student(teacher), teacher, batches(), resume=True, **given)
    del given["folder"], given["save_every"]
    assert resumed == distil(linear_student(teacher), teacher, batches(), **given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["losses.jsonl", "step_4"]


def test_a_finished_run_can_be_resumed_to_nothing_more(teacher, tmp_path):
    given = {"pairs": PAIRS, "steps": 2, "parameters": LINEAR, "folder": tmp_path}
    students = [linear_student(teacher) for _ in range(2)]
    curve = distil(students[0], teacher, batches(), **given)
    assert distil(students[1], teacher, batches(), resume=True, **given) == curve
    assert torch.equal(students[0].model.layers[1].weight, students[1].model.layers[1].weight)


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


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_curve(reentrant):
    teacher = tiny("llama")
    students = [linear_student(teacher).train() for _ in range(2)]
    students[1].gradient_checkpointing_enable({"use_reentrant": reentrant})
    students[1].enable_input_require_grads()
    curves = [distil(student, teacher, batches(), pairs=PAIRS, steps=3, kl=1) for student in students]
    assert [loss.loss for loss in curves[0]] == pytest.approx([loss.loss for loss in curves[1]], rel=1e-5)


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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"hidden": -1}, "weights of 0 or more"),
        ({"hidden": 0}, "no loss to train on"),
        ({"pairs": {}}, "no loss to train on"),
        ({"pairs": {3: 1}}, "student has no blocks"),
        ({"pairs": {1: 3}}, "teacher has no blocks"),
        ({"warmup": 3}, "warmup is 3"),
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
        ([{"input_ids": torch.ones(1, 4).long(), "attention_mask": torch.zeros(1, 4)}], "all padding"),
        ([torch.ones(4).long()], r"token ids \[B, T\]"),
        ([{"labels": torch.ones(1, 4).long()}], r"token ids \[B, T\]"),
    ):
        with pytest.raises(LinscoreError, match=words):
            distil(linear_student(teacher), teacher, data, pairs=PAIRS, steps=3)


def test_another_model_is_no_teacher(teacher):
    for other in (tiny("llama", vocab_size=65), tiny("llama", hidden_size=40)):
        with pytest.raises(LinscoreError, match="cut from"):
            distil(linear_student(teacher), other, batches(), pairs=PAIRS, steps=1)


def test_a_run_that_is_there_is_not_begun_anew_nor_resumed_with_other_parameters(teacher, tmp_path):
    given = {"pairs": PAIRS, "steps": 2, "folder": tmp_path}
    distil(linear_student(teacher), teacher, batches(), parameters=LINEAR, **given)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(LinscoreError, match="holds a run already"):
        distil(linear_student(teacher), teacher, batches(), parameters=LINEAR, **given)
    with pytest.raises(LinscoreError, match="damaged or of another model"):
        distil(linear_student(teacher), teacher, batches(), resume=True, **given)
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_damaged_curve_is_one_line(teacher, tmp_path):
    given = {"pairs": PAIRS, "steps": 2, "folder": tmp_path, "parameters": LINEAR}
    distil(linear_student(teacher), teacher, batches(), **given)
    for content, words in ((b"{]\n{]\n", "damaged"), (b"\xff\n", "damaged"), (b"", "steps 1 to 2")):
        (tmp_path / "losses.jsonl").write_bytes(content)
        with pytest.raises(LinscoreError, match=words):
            distil(linear_student(teacher), teacher, batches(), resume=True, **given)


@pytest.mark.parametrize("content", [None, b"", b"{]"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "random_states_0.pkl"])
def test_a_damaged_checkpoint_is_one_line_and_stays(teacher, tmp_path, name, content):
    """Cut to half, empty, or something else."""
    given = {"pairs": PAIRS, "steps": 2, "folder": tmp_path, "parameters": LINEAR}
    distil(linear_student(teacher), teacher, batches(), **given)
    file = tmp_path / "step_2" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content is None else content)
    with pytest.raises(LinscoreError, match="step_2 is damaged or of another model") as caught:
        distil(linear_student(teacher), teacher, batches(), resume=True, **given)
    assert "\n" not in str(caught.value)
    assert file.exists()


def test_a_model_that_is_no_module_list_of_blocks_is_refused(teacher):
    with pytest.raises(LinscoreError, match="decoder-only"):
        distil(nn.Linear(2, 2), teacher, batches(), pairs=PAIRS, steps=1)
