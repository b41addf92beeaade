"""The regularized Trainer against plain autograd, and against itself with other micro-batches and processes."""

import pytest
import torch
from formulas import formula, states
from tiny_models import VOCABULARY, tiny
from trainers import LENGTH, RATE, Texts, arguments
from transformers import Trainer
from transformers.modeling_layers import GradientCheckpointingLayer

from linscore.errors import LinscoreError
from linscore.regularization.trainer import LinearityRegularizerMixin, RegularizedTrainer

pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHTS = {"cosine": 0.3, "mse": 0.01}


def trained(folder, kind=RegularizedTrainer, *, texts=None, model=None, weights=WEIGHTS, **options):
    """The trainer after training, in float64."""
    model = tiny("llama").double() if model is None else model
    trainer = kind(model=model, args=arguments(folder, **options), train_dataset=texts or Texts(), **weights)
    trainer.train()
    return trainer


def curve(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def moved(trainer, start):
    """How far each parameter went, the rate apart."""
    return {name: (start[name] - p.detach()) / RATE for name, p in trainer.model.named_parameters()}


def assert_same(one, other, tolerance=1e-6):
    for name, value in one.model.named_parameters():
        change = other.model.get_parameter(name) - value
        assert float(change.detach().abs().max()) <= tolerance, name


@pytest.mark.slow
@pytest.mark.parametrize("weights", [WEIGHTS, {"linearity": -0.5}])
def test_a_step_follows_the_gradient_of_the_formula(tmp_path, weights):
    model, texts = tiny("llama").double(), Texts(whole="linearity" in weights)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    mask = texts.mask[:8]
    trainer = trained(
        tmp_path, model=model, texts=torch.utils.data.Subset(texts, range(8)), weights=weights, max_steps=1
    )
    fresh = tiny("llama").double().train()
    labels = texts.ids[:8].where(mask.bool(), -100)
    out, hidden = states(fresh, "llama", input_ids=texts.ids[:8], attention_mask=mask, labels=labels)
    penalty = formula(hidden, mask.bool(), **weights)
    (out.loss + penalty).backward()
    for name, change in moved(trainer, start).items():
        assert torch.allclose(change, fresh.get_parameter(name).grad, rtol=1e-6, atol=1e-9), name
    (entry,) = curve(trainer)
    assert entry["regularizer"] == pytest.approx(float(penalty.detach()), rel=1e-6)
    assert entry["loss"] == pytest.approx(float((out.loss + penalty).detach()), rel=1e-6)
    for name in weights:
        value = float(formula(hidden, mask.bool(), **{name: 1.0}).detach()) / 3
        assert entry[name] == pytest.approx(1 - value if name == "linearity" else value, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_accumulation_changes_nothing(tmp_path, whole):
    """Four micro-batches of two are one batch of eight, also where they hold unlike numbers of tokens."""
    options = {"texts": Texts(whole=whole)}
    at_once = trained(tmp_path, **options)
    in_four = trained(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    assert_same(in_four, at_once)
    for one, other in zip(curve(in_four), curve(at_once), strict=True):
        for name in ("loss", "regularizer", "cosine", "mse"):
            assert one[name] == pytest.approx(other[name], rel=1e-6), name


@pytest.mark.slow
def test_an_incomplete_last_batch(tmp_path):
    options = {"texts": Texts(11), "max_steps": -1, "num_train_epochs": 1}
    at_once = trained(tmp_path, **options)
    in_four = trained(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    assert len(curve(at_once)) == 2
    assert_same(in_four, at_once)


@pytest.mark.slow
def test_models_without_loss_arguments_take_means_of_micro_batches(tmp_path):
    """Then the Trainer divides the loss by the number of micro-batches, the penalty with it."""
    trainers = []
    for options in ({}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}):
        model = tiny("llama").double()
        model.accepts_loss_kwargs = False
        trainers.append(trained(tmp_path, model=model, texts=Texts(whole=True), **options))
    assert_same(*trainers)
    for one, other in zip(*map(curve, trainers), strict=True):
        assert one["regularizer"] == pytest.approx(other["regularizer"], rel=1e-6)


@pytest.mark.slow
def test_a_loss_function_of_the_users(tmp_path):
    """Its loss is taken as it is: the penalty is scaled all the same."""

    def loss(outputs, labels, num_items_in_batch):
        logits, labels = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / num_items_in_batch

    plain = trained(tmp_path)
    kind = lambda **options: RegularizedTrainer(compute_loss_func=loss, **options)  # noqa: E731
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    for accepts in (True, False):
        model = tiny("llama").double()
        model.accepts_loss_kwargs = accepts
        assert_same(trained(tmp_path, kind, model=model, **options), plain)


@pytest.mark.slow
def test_without_weights_the_run_is_the_same_bit_for_bit(tmp_path):
    options = {"model": None, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    plain, other = trained(tmp_path, Trainer, weights={}, **options), trained(tmp_path, weights={}, **options)
    assert [entry["loss"] for entry in curve(plain)] == [entry["loss"] for entry in curve(other)]
    assert curve(plain)[0].keys() == curve(other)[0].keys()
    assert_same(plain, other, 0.0)


@pytest.mark.slow
def test_evaluation_has_no_penalty_and_training_goes_on(tmp_path):
    texts = Texts(8)
    trainer = trained(tmp_path, texts=texts, max_steps=1)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in trainer.model.modules())
    plain = Trainer(model=trainer.model, args=arguments(tmp_path))
    expected = plain.evaluate(texts)["eval_loss"]
    batch = torch.utils.data.default_collate([texts[index] for index in range(8)])
    assert float(trainer.compute_loss(trainer.model.eval(), batch).detach()) == pytest.approx(expected)
    trainer.model.train()
    assert trainer.evaluate(texts)["eval_loss"] == expected
    trainer.train()
    assert curve(trainer)[-1]["regularizer"] > 0


@pytest.mark.slow
def test_logs_are_means_over_the_steps_since_the_last(tmp_path):
    options = {"max_steps": 4, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    each, pairs = curve(trained(tmp_path, **options)), curve(trained(tmp_path, logging_steps=2, **options))
    for name in ("loss", "regularizer", "cosine", "mse"):
        for index in (0, 1):
            mean = (each[2 * index][name] + each[2 * index + 1][name]) / 2
            assert pairs[index][name] == pytest.approx(mean, rel=1e-6), name


@pytest.mark.slow
def test_the_mixin_stands_before_other_trainers(tmp_path):
    class Other(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss, outputs = super().compute_loss(
                model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
            )
            self.seen = outputs.logits.shape
            return (loss, outputs) if return_outputs else loss

    class Mine(LinearityRegularizerMixin, Other):
        pass

    trainer = trained(tmp_path, Mine)
    assert trainer.seen == (8, LENGTH, VOCABULARY)
    assert_same(trainer, trained(tmp_path), 0.0)


@pytest.mark.slow
def test_a_model_that_is_made_anew(tmp_path):
    made = []

    def build():
        made.append(tiny("llama").double())
        return made[-1]

    args = arguments(tmp_path)
    trainer = RegularizedTrainer(model_init=build, args=args, train_dataset=Texts(), **WEIGHTS)
    trainer.train()
    assert len(made) == 2
    assert_same(trainer, trained(tmp_path), 0.0)
    assert not any(module._forward_hooks for model in made for module in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(tmp_path, reentrant):
    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    if "__call__" in vars(GradientCheckpointingLayer):
        with pytest.raises(LinscoreError, match="upgrade transformers"):
            trained(tmp_path, **options)
    else:
        assert_same(trained(tmp_path, **options), trained(tmp_path), 1e-9)


def test_errors_come_with_the_trainer(tmp_path):
    with pytest.raises(LinscoreError, match="weight mse"):
        trained(tmp_path, weights={"mse": float("nan")})
    with pytest.raises(LinscoreError, match="decoder"):
        trained(tmp_path, model=torch.nn.Linear(2, 2))
    with pytest.raises(LinscoreError, match="too small for linearity at width 32"):
        trained(tmp_path, weights={"linearity": 1.0})
