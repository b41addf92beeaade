"""Recipes: what ships, what is read, and what is refused in one line."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from linscore.errors import LinscoreError
from linscore.models.load import load_tokenizer
from linscore.pretraining.model import new_model
from linscore.pretraining.recipe import CONFIGS, Recipe, read_recipe
from linscore.pretraining.trainer import training_arguments

MODEL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
NEEDED = "model: {hidden_size: 32}\nsteps: 10\nlearning_rate: 1e-3\n"


def written(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "parameters"), [("1M", 1e6), ("10M", 10e6), ("150M", 150e6), ("650M", 650e6), ("embedded", 2.9e6)]
)
def test_a_shipped_recipe_has_the_size_in_its_name(name, parameters):
    recipe = read_recipe(name)
    values = {"model_type": "mistral", "vocab_size": 2048, **recipe.model}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    assert model.num_parameters() == pytest.approx(parameters, rel=0.15)


def test_the_embedded_recipe_makes_the_shape_of_the_shipped_decoder():
    recipe, tokenizer = read_recipe("embedded"), load_tokenizer("embedded")
    shipped = AutoConfig.from_pretrained(CONFIGS.parents[1] / "embedded" / "model").to_dict()
    made = new_model(recipe, tokenizer).config.to_dict()
    told_apart = {"_name_or_path", "transformers_version", "dtype", "use_cache", "architectures", "bos_token_id"}
    for name in shipped.keys() - told_apart:
        assert made[name] == shipped[name], name


def test_a_file_is_read_with_numbers_as_people_write_them(tmp_path):
    recipe = read_recipe(written(tmp_path, NEEDED + "weight: 1\nkeep: null\nreport_to: [tensorboard]\n"))
    assert (recipe.learning_rate, recipe.weight, recipe.keep) == (1e-3, 1.0, None)
    assert recipe.report_to == ["tensorboard"]


def test_what_is_given_takes_the_place_of_the_file(tmp_path):
    recipe = read_recipe(written(tmp_path, NEEDED)).but({"steps": 3, "regularizer": "mse", "weight": None})
    assert (recipe.steps, recipe.weights) == (3, {"mse": 0.5})
    assert read_recipe(written(tmp_path, NEEDED)).weights == {}
    with pytest.raises(LinscoreError, match=r"^`steps` is 0: give 1 or more$"):  # an argument, and no key of the file
        read_recipe(written(tmp_path, NEEDED)).but({"steps": 0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NEEDED + "step: 3\n", "step is unknown: the settings are model, steps"),
        ("steps: 3\nlearning_rate: 1\n", "model is missing"),
        (NEEDED + "batch_size: 0\n", "batch_size is 0: give 1 or more"),
        (NEEDED + "seq_len: long\n", "seq_len is 'long': give a whole number"),
        (NEEDED + "seed: true\n", "seed is True: give a whole number"),
        (NEEDED + "weight: .nan\n", "weight is nan"),
        (NEEDED + "regularizer: l2\n", "choose none, mse, cosine"),
        (NEEDED + "schedule: linear\n", "choose cosine, wsd"),
        (NEEDED + "text: a\ndataset: b\n", "give one"),
        (NEEDED + "text: '-'\n", "can be read only once"),
        (NEEDED + "text: ''\n", "text is empty"),
        (NEEDED + "seed: -1\n", "seed is -1: give 0 or more"),
        (NEEDED + "seed: 4294967296\n", "give less than 2³²"),
        (NEEDED + "weight_decay: .nan\n", "weight_decay is nan"),
        (NEEDED + "heldout_tokens: 511\n", "heldout_tokens is 511: give 512 or more"),
        (NEEDED.replace("hidden_size", "3"), "model: 3 is no key"),
        (NEEDED.replace("1e-3", "0"), "learning_rate is 0.0: give a number above 0"),
        ("a: [", "is no YAML"),
        ("a: &a [1]\nb: [*a, *a]\n", "has an alias"),
        ("a: 2001-99-99", "is no YAML"),
        ("a: 0b_", "is no YAML"),
        ("[" * 5000, "is no YAML"),
        ("#" * (1 << 20) + "\n", "more than 1,048,576 bytes"),
        ("", "holds no settings"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(tmp_path, text, message):
    with pytest.raises(LinscoreError, match=r"recipe\.yaml") as caught:
        read_recipe(written(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("dtype", "mixed"), [("auto", "no"), ("float32", "no"), ("bfloat16", "bf16")])
def test_the_dtype_reaches_what_the_trainer_runs_in(tmp_path, dtype, mixed):
    recipe = Recipe(model=MODEL, steps=1, learning_rate=1.0, dtype=dtype)
    assert training_arguments(recipe, tmp_path / "run", "cpu").mixed_precision == mixed


def test_the_peak_comes_within_the_first_tenth_of_a_short_run(tmp_path):
    recipe = Recipe(model=MODEL, steps=50, learning_rate=1.0, warmup=200, schedule="wsd")
    arguments = training_arguments(recipe, tmp_path / "run", "cpu")
    assert arguments.warmup_steps == 5
    assert arguments.warmup_steps + arguments.lr_scheduler_kwargs["num_decay_steps"] < 50


def test_a_tracker_that_is_not_there(tmp_path):
    recipe = Recipe(model=MODEL, steps=1, learning_rate=1.0, report_to=["tensorbord"])
    with pytest.raises(LinscoreError, match="tensorbord"):
        training_arguments(recipe, tmp_path / "run", "cpu")


def test_no_such_file_names_what_ships():
    with pytest.raises(LinscoreError, match="10M, 150M, 1M, 650M, embedded"):
        read_recipe("20M")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({**MODEL, "hiden_size": 3}, "hiden_size is no key of MistralConfig"),
        ({**MODEL, "model_type": "perceptron"}, "knows no such family"),
        ({**MODEL, "vocab_size": 100}, "vocab_size is 100, the tokenizer has 2048"),
        ({**MODEL, "hidden_size": "wide"}, "no decoder can be made of model"),
        ({**MODEL, "num_key_value_heads": 8}, "no decoder can be made of model"),
    ],
)
def test_models_that_cannot_be_made(model, message):
    with pytest.raises(LinscoreError, match=message):
        new_model(Recipe(model=model, steps=1, learning_rate=1.0), load_tokenizer("embedded"))


def test_weights_follow_from_the_seed():
    recipe, tokenizer = Recipe(model=MODEL, steps=1, learning_rate=1.0), load_tokenizer("embedded")
    one, same = new_model(recipe, tokenizer).state_dict(), new_model(recipe, tokenizer).state_dict()
    other = new_model(recipe.but({"seed": 1}), tokenizer).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])
