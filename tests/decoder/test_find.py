"""Where the blocks of a model are found, and what is refused with its reason."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from decoders import PATHS, T5, PlainDecoder, decoder_of, every_family, some_tokens, states_of
from tiny_models import DEPTH, VOCABULARY, WIDTH, tiny
from torch import nn

from linscore.decoder.find import find_decoder
from linscore.decoder.run import check_causal, run
from linscore.errors import LinscoreError

pytestmark = pytest.mark.usefixtures("one_thread")


class ImageStack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3) for _ in range(4))


@every_family
def test_blocks_are_found_where_the_family_keeps_them(family: str) -> None:
    decoder = decoder_of(family)
    assert decoder.path == PATHS.get(family, "model.layers")
    assert decoder.model.get_submodule(decoder.path) is decoder.blocks
    assert (len(decoder.blocks), decoder.width) == (DEPTH, WIDTH)
    assert decoder.name == type(decoder.model).__name__
    check_causal(decoder)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "mamba"])
def test_a_model_without_its_head_is_read_the_same(family: str) -> None:
    decoder = find_decoder(decoder_of(family).model.base_model)
    assert decoder.path == PATHS.get(family, "model.layers").split(".", 1)[1]
    expected = states_of(decoder_of(family), some_tokens())
    assert all(torch.equal(s.y, expected[i].y) for i, s in states_of(decoder, some_tokens()).items())


def test_the_name_is_the_one_the_model_was_loaded_by() -> None:
    model = tiny("llama")
    model.config.name_or_path = "someone/some-model"
    assert find_decoder(model).name == "someone/some-model"


def test_a_single_block_is_found_if_the_configuration_says_one() -> None:
    assert len(find_decoder(tiny("llama", num_hidden_layers=1)).blocks) == 1
    with pytest.raises(LinscoreError, match=r"looked for one ModuleList of two or more like blocks"):
        find_decoder(PlainDecoder(depth=1))


def test_a_plain_module_needs_no_configuration() -> None:
    decoder = find_decoder(PlainDecoder())
    assert (decoder.path, decoder.width, decoder.name) == ("blocks", 8, "PlainDecoder")
    check_causal(decoder)
    assert states_of(decoder, torch.tensor([[1, 2, 3]]))[2].y.shape == (1, 3, 8)
    with pytest.raises(LinscoreError, match="padding like this moves the states"):
        run(decoder, torch.tensor([[1, 2, 3]]), torch.tensor([[0, 1, 1]]))
    run(decoder, torch.tensor([[1, 2, 3]]), torch.tensor([[1, 1, 0]]))  # what comes later is not seen


def test_blocks_of_several_classes_are_found_where_the_configuration_says_how_many() -> None:
    class Hybrid(PlainDecoder):
        config = SimpleNamespace(num_hidden_layers=3)

        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Identity(), nn.Linear(8, 8)])

    assert find_decoder(Hybrid()).path == "blocks"


def test_of_two_lists_the_one_that_runs_on_tokens_is_found() -> None:
    model = PlainDecoder()
    model.tower = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
    assert find_decoder(model).path == "blocks"


def test_a_replaced_block_of_a_subclass_is_still_one_of_the_blocks() -> None:
    model = tiny("llama")

    class Replaced(type(model.model.layers[0])):  # type: ignore[misc]
        pass

    model.model.layers[1] = Replaced(model.config, 1)
    assert len(find_decoder(model).blocks) == DEPTH


def test_the_text_decoder_of_a_multimodal_model_is_found_beside_its_vision_tower() -> None:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    text = {**sizes, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "pad_token_id": 0}
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**text),
        vision_config=transformers.CLIPVisionConfig(**sizes, image_size=8, patch_size=4),
        image_token_index=5,
    )
    decoder = find_decoder(transformers.LlavaForConditionalGeneration(config).eval())
    assert decoder.path == "model.language_model.layers"
    check_causal(decoder)


def test_lists_inside_the_blocks_are_not_taken_for_the_blocks() -> None:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    model = PlainDecoder()
    model.blocks = nn.ModuleList(Mixture() for _ in range(3))
    assert find_decoder(model).path == "blocks"


def test_the_length_that_the_configuration_says_decides_between_two_lists() -> None:
    model = tiny("llama")
    model.model.side = nn.ModuleList(nn.Linear(3, 3) for _ in range(DEPTH + 1))
    assert find_decoder(model).path == "model.layers"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)), "is an encoder-decoder"),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU()), "ModuleList of two or more like blocks, found none"),
        (lambda: "a/name", "'a/name' is no model: load one"),
        (lambda: nn.Linear(3, 3), "ModuleList of two or more like blocks, found none"),
        (ImageStack, "no token embedding"),
        (lambda: nn.ModuleDict({"a": PlainDecoder(), "b": PlainDecoder()}), r"a.blocks \(3 × Linear\), b.blocks"),
        (lambda: nn.ModuleList([nn.Linear(3, 3), nn.ReLU()]), r"\(2 × Linear/ReLU\)"),
    ],
    ids=["T5", "CNN", "a name", "Linear", "CNN with a ModuleList", "two decoders", "unlike blocks"],
)
def test_what_is_no_decoder_is_refused_with_the_reason(model, reason: str) -> None:
    with pytest.raises(LinscoreError, match=reason):
        find_decoder(model())
