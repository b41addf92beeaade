"""Whether a report is of a model, by a few of its weights; where they cannot be read, nothing is refused for that."""

import json
import math

import pytest
import torch
from tiny_models import tiny

import linscore
from linscore import Report, find_decoder
from linscore.decoder.find import weight_sample
from linscore.scoring.belongs import check_belongs

pytestmark = pytest.mark.usefixtures("one_thread")


class Packed(torch.Tensor):
    """As quantized weights: it multiplies, and its bytes are in no order that could be read."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.flatten:
            raise NotImplementedError("no dense bytes")
        if func is torch.Tensor.detach:
            return super().__torch_function__(func, types, args, kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def test_weights_that_cannot_be_sampled_are_scored_and_told_apart_by_nothing(tmp_path):
    model = tiny("llama")
    for block in model.model.layers:
        block.self_attn.q_proj.weight = torch.nn.Parameter(block.self_attn.q_proj.weight.detach().as_subclass(Packed))
    report = linscore.score(model, [torch.randint(3, 60, (8, 40))])
    report.save(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["weight_sample"] is None
    check_belongs(Report.load(tmp_path), find_decoder(tiny("llama")), "llama")
    check_belongs(linscore.score(tiny("llama"), [torch.randint(3, 60, (8, 40))]), find_decoder(model), "llama")


def test_a_weight_that_is_not_finite_is_no_number_of_the_report():
    model = tiny("llama")
    weight = model.model.layers[1].self_attn.q_proj.weight
    with torch.no_grad():
        weight.view(-1)[weight.numel() // 2] = torch.nan
    sample = weight_sample(find_decoder(model))
    assert sample is not None
    assert len(sample) == 4 * len(model.model.layers)
    assert sample.count(0.0) == 1
    assert all(map(math.isfinite, sample))
