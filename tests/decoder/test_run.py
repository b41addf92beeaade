"""Running a decoder under a watch: what runs, what is left behind, and that tokens see none that come later."""

import pytest
import torch
import transformers
from decoders import BERT, DISTILBERT, T5, decoder_of, hook_count, some_tokens, states_of, sub_blocks_of
from tiny_models import DEPTH, WIDTH, tiny

from linscore.decoder.find import Decoder, find_decoder
from linscore.decoder.run import check_causal, run, watch
from linscore.decoder.states import BlockStates
from linscore.errors import LinscoreError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_hooks_are_gone_after_an_exception_in_the_callback() -> None:
    decoder = decoder_of("llama")

    def fail(_index: int, _states: BlockStates) -> None:
        raise KeyError("callback")

    before = hook_count(decoder.model)
    sub_blocks, during = sub_blocks_of("llama"), []
    with watch(decoder, fail, sub_blocks=sub_blocks):
        during.append(hook_count(decoder.model))
    with pytest.raises(KeyError), watch(decoder, fail, sub_blocks=sub_blocks):
        run(decoder, some_tokens())
    assert during == [before + 3 * DEPTH]
    assert hook_count(decoder.model) == before


def test_only_the_wanted_blocks_are_watched() -> None:
    seen: list[int] = []
    with watch(decoder_of("llama"), lambda index, _: seen.append(index), blocks={2, 0}):
        run(decoder_of("llama"), some_tokens())
    assert seen == [0, 2]
    with (
        pytest.raises(LinscoreError, match=r"no blocks \[-1, 3\]: choose from 0 to 2"),
        watch(decoder_of("llama"), print, {3, -1}),
    ):
        pass


def test_the_head_and_the_cache_stay_out_of_it_and_no_gradient_is_kept() -> None:
    decoder = find_decoder(tiny("llama"))
    asked: list[dict] = []
    decoder.model.lm_head.register_forward_pre_hook(lambda *_: pytest.fail("the head ran"))
    decoder.backbone.register_forward_pre_hook(lambda _m, _args, kwargs: asked.append(kwargs), with_kwargs=True)
    states = states_of(decoder, some_tokens(), torch.ones(2, 9))
    assert list(asked[0]) == ["input_ids", "use_cache"]
    assert asked[0]["use_cache"] is False
    assert not states[0].y.requires_grad
    assert not states[0].y.is_inference()


def test_positions_count_real_tokens() -> None:
    decoder = find_decoder(tiny("llama"))
    asked: list[dict] = []
    decoder.backbone.register_forward_pre_hook(lambda _m, _args, kwargs: asked.append(kwargs), with_kwargs=True)
    run(decoder, some_tokens(1, 4), torch.tensor([[0, 0, 1, 1]]))
    assert asked[-1]["position_ids"].tolist() == [[0, 0, 0, 1]]


def test_dropout_is_off_and_the_mode_of_every_module_is_restored() -> None:
    model = tiny("gpt2").train()
    model.transformer.h[1].eval()
    modes = [module.training for module in model.modules()]
    states = states_of(find_decoder(model), some_tokens())
    assert torch.equal(states[2].y, states_of(decoder_of("gpt2"), some_tokens())[2].y)
    assert [module.training for module in model.modules()] == modes


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(LinscoreError, match=r"one shape, \[batch, seq\]"):
        run(decoder_of("llama"), some_tokens(), torch.ones(2, 8))


@pytest.mark.parametrize(
    "model",
    [
        lambda: transformers.BertModel(transformers.BertConfig(**BERT)),
        lambda: transformers.BertLMHeadModel(transformers.BertConfig(**BERT)),
        lambda: transformers.DistilBertModel(transformers.DistilBertConfig(**DISTILBERT)),
        lambda: transformers.T5EncoderModel(transformers.T5Config(**T5)),
    ],
    ids=["BertModel", "BertLMHeadModel", "DistilBertModel", "T5EncoderModel"],
)
def test_models_whose_tokens_see_later_tokens_are_refused(model) -> None:
    decoder = find_decoder(model().eval())
    with pytest.raises(LinscoreError, match="is not a decoder: at block 0 tokens see later tokens"):
        check_causal(decoder)


def test_bert_made_a_decoder_passes() -> None:
    check_causal(find_decoder(transformers.BertLMHeadModel(transformers.BertConfig(**BERT, is_decoder=True)).eval()))


def test_blocks_that_a_configuration_cuts_off_are_noticed() -> None:
    model = tiny("llama")
    decoder = find_decoder(model)
    model.config.num_hidden_layers = 2
    with pytest.raises(LinscoreError, match=r"block 2 of model\.layers does not run"):
        check_causal(decoder)


def test_a_stream_of_another_width_is_noticed() -> None:
    decoder = decoder_of("opt_350m")
    assert decoder.width == WIDTH
    assert decoder.model.get_input_embeddings().embedding_dim == 16
    wrong = Decoder(decoder.model, decoder.backbone, decoder.blocks, decoder.path, 16, decoder.name)
    with pytest.raises(LinscoreError, match=r"shape \[1, 8, 32\] where \[batch, seq, 16\]"):
        check_causal(wrong)


def test_states_that_are_not_finite_do_not_make_a_decoder_look_bidirectional() -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 3] = torch.inf
    check_causal(find_decoder(model))
