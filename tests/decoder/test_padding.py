"""Padding leaves real tokens as they are alone, or rows of one length are run without it; oracle: each row alone."""

import pytest
import torch
from decoders import decoder_of, states_of
from rare_models import random_model
from tiny_models import DEPTH, VOCABULARY, WIDTH
from torch import Tensor
from transformers import BartConfig, BartForCausalLM, RobertaConfig, RwkvConfig

from linscore.decoder.find import Decoder, find_decoder
from linscore.decoder.padding import padding_form
from linscore.decoder.run import parts, run
from linscore.errors import LinscoreError

pytestmark = pytest.mark.usefixtures("one_thread")
SIDES = {"left": [[0, 0, 1, 1, 1], [1] * 5], "right": [[1, 1, 1, 0, 0], [1] * 5], "both": [[0, 1, 1, 1, 0], [1] * 5]}


def bart() -> Decoder:
    heads = {"decoder_attention_heads": 4, "encoder_layers": 1, "decoder_layers": DEPTH, "decoder_ffn_dim": 48}
    config = BartConfig(vocab_size=VOCABULARY, d_model=WIDTH, max_position_embeddings=64, **heads)
    return find_decoder(BartForCausalLM(config).eval())


def roberta() -> Decoder:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 4, "intermediate_size": 48}
    return find_decoder(random_model(RobertaConfig(vocab_size=VOCABULARY, is_decoder=True, **sizes)))


def rwkv() -> Decoder:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "attention_hidden_size": WIDTH, "intermediate_size": 48}
    return find_decoder(random_model(RwkvConfig(vocab_size=VOCABULARY, **sizes)))


DECODERS = {"bart": bart, "roberta": roberta, "rwkv": rwkv, "llama": lambda: decoder_of("llama")}
BESIDE = {("bart", "left"), ("bart", "both"), ("rwkv", "left"), ("rwkv", "both")}  # what cannot be padded so


def ids_of(batch: int = 2, length: int = 5) -> Tensor:
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("family", DECODERS)
def test_real_tokens_have_the_states_that_they_have_alone(family: str, side: str) -> None:
    decoder, ids, mask = DECODERS[family](), ids_of(), torch.tensor(SIDES[side])
    found: dict[int, Tensor] = {}
    count = 0
    for rows, some, left in parts(decoder, ids, mask, None):
        states = states_of(decoder, some, left)[DEPTH - 1].y
        for row, of_row in zip(rows.nonzero()[:, 0].tolist(), states, strict=True):
            found[row] = of_row if left is None else of_row[left[row] != 0]
        count += 1
    for row in range(2):
        alone = states_of(decoder, ids[row][mask[row] != 0][None])[DEPTH - 1].y[0]
        torch.testing.assert_close(found[row], alone, rtol=1e-4, atol=1e-5)
    assert count == (2 if (family, side) in BESIDE else 1)


def test_what_cannot_be_padded_is_refused_where_it_is_run_as_it_is() -> None:
    with pytest.raises(LinscoreError, match="padding like this moves the states"):
        run(bart(), ids_of(), torch.tensor(SIDES["left"]))


def test_padding_is_tried_once_and_only_where_there_is_some() -> None:
    decoder = find_decoder(decoder_of("llama").model)
    calls: list[None] = []
    handle = decoder.backbone.register_forward_pre_hook(lambda *_: calls.append(None))
    run(decoder, ids_of(), torch.ones(2, 5))
    assert len(calls) == 1
    for _ in range(2):
        run(decoder, ids_of(), torch.tensor(SIDES["left"]))
    handle.remove()
    assert len(calls) == 1 + 3 + 2  # two rows alone and one form that agrees
    assert decoder.tried == {("left",): ("attention_mask", "position_ids")}


def test_padding_between_tokens_is_cut_out() -> None:
    decoder, ids = decoder_of("llama"), ids_of(1)
    mask = torch.tensor([[1, 1, 0, 1, 1]])
    assert padding_form(decoder, mask != 0) is None
    [(_, some, left)] = parts(decoder, ids, mask, None)
    assert left is None
    assert torch.equal(some, ids[:, [0, 1, 3, 4]])
