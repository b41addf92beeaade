"""Lenses in the files of the tuned-lens package; the oracle is the package's formula, written out."""

import hashlib
import json

import numpy as np
import pytest
import torch
from linear_models import random_map, tokens
from tiny_models import DEPTH, WIDTH, tiny
from torch import Tensor, nn

from linscore import LinscoreError, Moments, find_decoder, fit_block_map
from linscore.statistics.affine import AffineMap
from linscore.surgery.tuned_lens import export_tuned_lens

pytestmark = pytest.mark.usefixtures("one_thread")


def lens_states(folder, states: list[Tensor]) -> list[Tensor]:
    """h + translator_i(h) with `nn.Linear` translators, loaded into a ModuleList as the package loads them."""
    config = json.loads((folder / "config.json").read_text())
    size, count = config["d_model"], config["num_hidden_layers"]
    translators = nn.ModuleList([nn.Linear(size, size, bias=config["bias"]) for _ in range(count)])
    translators.load_state_dict(torch.load(folder / "params.pt", weights_only=True))
    with torch.no_grad():
        return [h + translator(h) for h, translator in zip(states, translators, strict=True)]


def states_of(model, input_ids: Tensor) -> list[Tensor]:
    """What enters each block, and what leaves the last."""
    seen = []
    blocks = find_decoder(model).blocks
    hooks = [b.register_forward_pre_hook(lambda _b, args: seen.append(args[0])) for b in blocks]
    hooks.append(blocks[-1].register_forward_hook(lambda _b, _args, y: seen.append(y)))
    with torch.no_grad():
        model(input_ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


def test_the_lens_computes_the_maps(tmp_path):
    maps = [random_map(seed, mean=10.0) for seed in range(DEPTH)]
    export_tuned_lens(tmp_path / "lens", maps, tiny("llama"))
    states = [torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in range(DEPTH)]
    for fitted, h, found in zip(maps, states, lens_states(tmp_path / "lens", states), strict=True):
        expected = h.double() + (h.double() - fitted.mean_x) @ fitted.b + fitted.mean_delta
        torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-4)


def test_maps_of_spans_to_the_end_give_the_model_s_own_states_where_it_is_linear(tmp_path):
    """h_3 = h_i + (h_i − μ)B + μ_δ is fitted on what enters block i and what leaves the last, before the final norm."""
    model = tiny("gpt2")
    ids = torch.randint(3, 64, (64, 30), generator=torch.Generator().manual_seed(0))
    *entered, last = states_of(model, ids)
    maps = []
    for x in entered:
        moments = Moments(WIDTH, precision="exact")
        moments.update(x.reshape(-1, WIDTH), last.reshape(-1, WIDTH))
        maps.append(fit_block_map(moments))
    export_tuned_lens(tmp_path / "lens", maps, model)
    *entered, last = states_of(model, tokens())
    for index, (x, found) in enumerate(zip(entered, lens_states(tmp_path / "lens", entered), strict=True)):
        direct = maps[index](x).float()
        torch.testing.assert_close(found, direct, rtol=1e-4, atol=1e-4)
        assert (found - last).norm() < (x - last).norm()


def test_the_configuration_is_the_package_s(tmp_path):
    model = tiny("gpt2")
    model.config.name_or_path = str(tmp_path / "models" / "tiny")
    export_tuned_lens(tmp_path / "lens", [random_map()] * DEPTH, model)
    weight = model.lm_head.weight.detach().numpy()
    assert json.loads((tmp_path / "lens" / "config.json").read_text()) == {
        "base_model_name_or_path": "./../models/tiny",
        "d_model": WIDTH,
        "num_hidden_layers": DEPTH,
        "bias": True,
        "base_model_revision": None,
        "unembed_hash": hashlib.sha256(str.encode(np.array_str(weight, precision=1))).hexdigest(),
        "lens_type": "linear_tuned_lens",
    }
    parameters = torch.load(tmp_path / "lens" / "params.pt", weights_only=True)
    assert list(parameters) == [f"{i}.{name}" for i in range(DEPTH) for name in ("weight", "bias")]
    assert {value.dtype for value in parameters.values()} == {torch.float32}


def test_16_bit_models_and_outlier_means_lose_nothing_in_the_file(tmp_path):
    fitted = random_map(mean=1000.0)
    export_tuned_lens(tmp_path / "lens", [fitted] * DEPTH, tiny("llama").to(torch.bfloat16))
    bias = torch.load(tmp_path / "lens" / "params.pt", weights_only=True)["0.bias"]
    assert torch.equal(bias, (fitted.mean_delta - fitted.mean_x @ fitted.b).float())


def test_what_does_not_fit_is_refused_and_nothing_written(tmp_path):
    maps, model = [random_map()] * DEPTH, tiny("llama")
    (tmp_path / "there").mkdir()
    narrow = AffineMap(torch.zeros(4, 4).double(), torch.zeros(4).double(), torch.zeros(4).double())
    for folder, given, of, says in (
        ("there", maps, model, "exists"),
        ("new", maps[:2], model, "2 maps for the 3 blocks"),
        ("new", [*maps[:2], narrow], model, r"map 2 has shape \[4, 4\]"),
        ("new", maps, model.model, "no linear head"),
        ("new", maps, tiny("opt_350m"), "no linear head over states of width 32"),
    ):
        with pytest.raises(LinscoreError, match=says):
            export_tuned_lens(tmp_path / folder, given, of)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
