"""Other tools' models: docs/adapters.md, run with the packages themselves; the figures are those of the weights."""

import copy
import linecache
import re
from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import VOCABULARY, shared, tiny
from trainers import arguments
from words import tokenizer, words

import linscore
from linscore import LinscoreError, Span, distil, drop, fuse, linearize, score

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

DOCS = Path(__file__).parents[1] / "docs" / "adapters.md"


def example(heading, without=None, **given):
    """What the code under a heading leaves behind; without the lines that hold a word."""
    section = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", DOCS.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert section is not None
    code = "\n".join(re.findall(r"```python\n(.*?)```", section[1], re.DOTALL))
    code = "\n".join(line for line in code.splitlines() if without is None or without not in line)
    names = {"linscore": linscore, "torch": torch, "batches": batches(), **given}
    place = f"docs/adapters.md, {heading}"
    linecache.cache[place] = (len(code), None, code.splitlines(keepends=True), place)  # nnsight reads source
    exec(compile(code, place, "exec"), names)
    return names


def batches(count=8):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCABULARY, (4, 40), generator=generator) for _ in range(count)]


def same_figures(report, wanted):
    """To 1e-6, whatever is a figure of a block."""
    assert len(report.blocks) > 0
    same_blocks(report.blocks, wanted.blocks)


def same_blocks(found, wanted):
    for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
        for name in ("linearity", "linearity_no_residual", "linearity_no_residual_heldout", "cosine", "rows"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-6), (index, name)


def adapted(family, targets):
    """A tiny decoder with adapters of peft that do something, and one that has their products in its weights."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = peft.get_peft_model(tiny(family), config)
    by_hand = tiny(family)
    for path, layer in model.base_model.model.named_modules():
        if hasattr(layer, "lora_A"):
            added = (layer.lora_B["default"].weight @ layer.lora_A["default"].weight) * 6 / 4
            weight = by_hand.get_submodule(path).weight
            weight.data += added.T if family == "gpt2" else added  # transformers' Conv1D is transposed
    return model, by_hand


@pytest.mark.parametrize(("family", "targets"), [("llama", ["q_proj", "down_proj"]), ("gpt2", ["c_attn"])])
def test_a_peft_model_scores_as_with_its_adapters_in_the_weights(family, targets):
    model, by_hand = adapted(family, targets)
    wanted = score(by_hand, batches())
    names = example("peft", adapted=copy.deepcopy(model))
    same_figures(names["report"], wanted)
    assert abs(wanted.blocks[1].linearity - score(shared(family), batches()).blocks[1].linearity) > 1e-3
    assert len(linscore.find_decoder(names["smaller"]).blocks) == 2
    by_hand = drop(by_hand, [linscore.rank(wanted)[0].index])
    torch.testing.assert_close(names["smaller"](batches()[0]).logits, by_hand(batches()[0]).logits)


def test_cutting_a_peft_model_asks_for_merging_first():
    model, _ = adapted("llama", ["q_proj", "down_proj"])
    moments = score(model, batches()).moments
    for job in (
        lambda: drop(model, [1]),
        lambda: linearize(model, {1: linscore.fit_block_map(moments["block.1"])}),
        lambda: fuse(model, {1: None}),
        lambda: score(model, batches(), spans=[Span(1, 1)], fuse=[Span(1, 1)]),
        lambda: distil(model, shared("llama"), batches(), pairs={0: 0}, steps=1),
    ):
        with pytest.raises(LinscoreError, match=r"PeftModel has adapters.*merge_and_unload") as error:
            job()
        assert "\n" not in str(error.value)


def test_what_trl_logs_is_the_same_beside_the_callback(tmp_path):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"text": [words(12, seed) for seed in range(16)]})
    reader = tokenizer()
    reader.pad_token, reader.eos_token = "<pad>", "<eos>"
    logs = {}
    for without in ("add_callback", None):
        args = arguments(tmp_path, trl.SFTConfig, max_steps=4, logging_steps=2, bf16=False, save_strategy="no")
        given = {"trl": trl, "model": tiny("gpt2"), "args": args, "data": data, "tokenizer": reader}
        names = example("trl", without, **given, out=tmp_path / "series")
        logs[without] = names["trainer"].state.log_history
    own = [one for one in logs[None] if "linearity_heldout" in one]
    assert [one["step"] for one in own] == [0, 2, 4]
    with_both = [timeless(one) for one in logs[None] if one not in own]
    assert with_both == [timeless(one) for one in logs["add_callback"]]
    assert ["mean_token_accuracy" in one for one in with_both] == [True, True, False]  # the last is of the whole run


def timeless(logged):
    return {name: value for name, value in logged.items() if "runtime" not in name and "per_second" not in name}


def language_model(given):
    nnsight = pytest.importorskip("nnsight")
    reader = tokenizer()
    reader.pad_token = "<pad>"
    return nnsight.LanguageModel(given, tokenizer=reader)


def test_a_model_of_nnsight_scores_as_what_it_holds_and_in_a_trace():
    names = example("nnsight", language_model=language_model(tiny("llama")))
    wanted = score(shared("llama"), batches())
    same_figures(names["report"], wanted)
    dealt = [{"input_ids": ids, "folds": torch.full((4,), n % 2)} for n, ids in enumerate(batches())]
    same_blocks(names["figures"], score(shared("llama"), dealt).blocks)
    part = language_model(tiny("llama"))
    same_figures(score(part.model, batches()), wanted)  # an Envoy, not the whole
    with torch.no_grad():
        cut = [drop(model, [1])(batches()[0]).logits for model in (part, shared("llama"))]
    torch.testing.assert_close(*cut)


def test_a_model_that_nnsight_has_not_loaded_yet(tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    model = language_model(str(tmp_path))
    with pytest.raises(LinscoreError, match=r"no weights in memory.*dispatch"):
        score(model, batches())
    model.dispatch()
    same_figures(score(model, batches()), score(shared("llama"), batches()))


def test_a_bridge_of_transformer_lens_scores_as_what_it_was_booted_from(tmp_path):
    bridges = pytest.importorskip("transformer_lens.model_bridge")
    reader = tokenizer()
    reader.add_special_tokens({"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<eos>"})
    for saved in (tiny("gpt2"), reader):
        saved.save_pretrained(tmp_path)
    bridge = bridges.TransformerBridge.boot_transformers(str(tmp_path), device="cpu", dtype=torch.float32)
    names = example("TransformerLens", bridge=bridge)
    wanted = score(shared("gpt2"), batches())
    same_figures(names["report"], wanted)
    assert names["report"].loss == pytest.approx(wanted.loss)
    dealt = [{"input_ids": ids, "folds": torch.full((4,), n % 2)} for n, ids in enumerate(batches())]
    same_blocks(names["figures"], score(shared("gpt2"), dealt).blocks)
    losses = [linscore.losses_without(model, batches(2)) for model in (bridge, shared("gpt2"))]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    with pytest.raises(LinscoreError, match=r"has modules of TransformerLens.*load the model again"):
        linearize(bridge, {1: linscore.fit_block_map(wanted.moments["block.1"])})
    with pytest.raises(LinscoreError, match="has modules of TransformerLens"):
        score(bridge, batches(), spans=[Span(1, 1)], fuse=[Span(1, 1)])


def test_an_encoder_scores_on_request():
    config = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=VOCABULARY, **config)).eval()
    report = example("Encoders", encoder=model)["report"]
    assert [block.rows for block in report.blocks] == [8 * 4 * 40] * 3
    assert report.warnings[0].kind == "encoder"


def towers():
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    image = {"image_size": 32, "patch_size": 4}
    sound = {"conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2}
    sound |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    yield transformers.ViTModel(transformers.ViTConfig(**sizes, **image)), (8, 3, 32, 32)
    yield transformers.Dinov2Model(transformers.Dinov2Config(**sizes, **image)), (8, 3, 32, 32)
    yield transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes, **image)), (8, 3, 32, 32)
    yield transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**sizes, **sound)), (8, 2000)


def leaving(tower, inputs):
    """What leaves each block, by hooks of the test's own."""
    seen = []
    (blocks,) = (found for found in tower.modules() if isinstance(found, torch.nn.ModuleList) and len(found) == 3)
    for block in blocks:
        block.register_forward_hook(lambda _block, _args, out: seen.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        tower(inputs)
    return [state.flatten(0, 1).double() for state in seen]


def test_towers_of_images_and_sound_score_by_their_hidden_states():
    for tower, shape in towers():
        inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        report = example("Images and sound", tower=tower.eval(), inputs=inputs)["report"]
        states = leaving(tower, inputs)
        assert len(report.blocks) == 3
        for index in (1, 2):
            x, y = (state - state.mean(0) for state in states[index - 1 : index + 1])
            error = (x @ torch.linalg.lstsq(x, y, driver="gelsd").solution - y).square().sum() / y.square().sum()
            assert report.blocks[index].linearity == pytest.approx(1 - error.item(), abs=1e-6)
