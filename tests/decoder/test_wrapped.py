"""What is looked through, what is run as it was written, and what surgery refuses."""

import pytest
import torch
import torch.distributed as dist
from linear_models import random_map, tokens
from tiny_models import DEPTH, shared, tiny
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from linscore import LinscoreError, drop, find_decoder, fuse, linearize, score
from linscore.decoder.run import bypass
from linscore.distillation.distil import distil
from linscore.models.load import load

pytestmark = pytest.mark.usefixtures("one_thread")


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


class Holder:
    """As nnsight's models: no module, and holds one."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, Holder, lambda model: Holder(compiled(model))])
def test_wrappers_are_looked_through(wrap):
    model = tiny("llama")
    assert find_decoder(wrap(model)).model is model
    for cut in (drop(wrap(model), [1]), linearize(wrap(model), {1: random_map()})):
        assert type(cut).__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize("whole", [True, False])
def test_shards_of_fsdp2_score_as_the_model_does(whole):
    """Its weights outside of blocks are those of the model with its head, or of the one inside."""
    expected = score(shared("llama"), [tokens(8, 20)])
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model, mesh = tiny("llama"), init_device_mesh("cpu", (1,))
        for part in (*model.model.layers, model if whole else model.model):
            fully_shard(part, mesh=mesh)
        found = score(model, [tokens(8, 20)])
    finally:
        dist.destroy_process_group()
    assert found.blocks == expected.blocks
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)


@pytest.mark.slow
def test_a_compiled_block_runs_as_it_was_written():
    """Neither are hooks traced, nor does what was traced before run in place of them."""
    model, traced = tiny("llama"), []

    def backend(graph, _inputs):
        traced.append(graph)
        return graph.forward

    find_decoder(model).blocks[1].compile(backend=backend)
    with torch.no_grad():
        plain = model(tokens()).logits
        before = len(traced)
        found = score(model, [tokens(8, 20)])
        with bypass(find_decoder(model), [1]):
            bypassed = model(tokens()).logits
    assert len(traced) == before > 0
    assert [block.linearity for block in found.blocks] == [
        block.linearity for block in score(shared("llama"), [tokens(8, 20)]).blocks
    ]
    torch.testing.assert_close(bypassed, drop(shared("llama"), [1])(tokens()).logits)
    assert not torch.allclose(plain, bypassed)


class Adapted(nn.Linear):
    """As a layer that peft has put its adapters into."""


Adapted.__module__ = "peft.tuners.lora.layer"


def test_adapters_are_scored_and_no_surgery_loses_them():
    model = tiny("llama")
    query = model.model.layers[1].self_attn.q_proj
    model.model.layers[1].self_attn.q_proj = Adapted(query.in_features, query.out_features)
    assert len(score(model, [tokens(8, 20)]).blocks) == DEPTH
    for job in (
        lambda: drop(model, [1]),
        lambda: linearize(model, {1: random_map()}),
        lambda: fuse(model, {1: None}),
        lambda: distil(model, shared("llama"), [tokens()], pairs={0: 0}, steps=1),
    ):
        with pytest.raises(LinscoreError, match=r"LlamaForCausalLM has adapters.*merge_and_unload"):
            job()


@pytest.mark.parametrize("config", [True, False])
def test_a_folder_of_an_adapter_is_named(config, tmp_path):
    """With a configuration beside it, too, as some trainers write."""
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/model", "peft_type": "LORA"}')
    if config:
        tiny("llama").config.save_pretrained(tmp_path)
    with pytest.raises(LinscoreError, match=r"is an adapter .peft. of some/model.*merge_and_unload") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)
