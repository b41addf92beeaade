"""Tokens and lengths that a model cannot take are refused before they are run."""

import pytest
import torch
from decoders import decoder_of, some_tokens, states_of
from tiny_models import VOCABULARY, shared

from linscore.decoder.find import find_decoder
from linscore.decoder.run import run
from linscore.errors import LinscoreError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("wrong", [VOCABULARY, -1])
def test_a_token_without_an_embedding_is_named_with_the_size_of_the_embedding(wrong: int) -> None:
    tokens = some_tokens()
    tokens[1, 4] = wrong
    with pytest.raises(LinscoreError, match=f"token id {wrong}, but the embedding of .* has {VOCABULARY} rows"):
        run(decoder_of("llama"), tokens)
    mask = torch.ones_like(tokens)
    mask[1, 4:] = 0
    run(decoder_of("llama"), tokens, mask)  # what padding holds means nothing


@pytest.mark.parametrize(("family", "positions"), [("gpt2", 64), ("opt", 64), ("gptj", 64), ("gpt_neo", 64)])
def test_rows_longer_than_the_positions_are_refused(family: str, positions: int) -> None:
    decoder = decoder_of(family)
    assert decoder.positions == positions
    run(decoder, some_tokens(1, positions))
    with pytest.raises(LinscoreError, match=rf"has {positions} positions, and a row has {positions + 1} tokens"):
        run(decoder, some_tokens(1, positions + 1))


@pytest.mark.parametrize("family", ["llama", "bloom", "mamba"])
def test_positions_that_are_computed_have_no_end(family: str) -> None:
    assert decoder_of(family).positions is None
    run(decoder_of(family), some_tokens(1, 70))


def test_what_a_model_raises_on_rows_that_are_too_long_is_one_line() -> None:
    decoder = find_decoder(shared("llama"))
    failing = decoder.backbone.register_forward_pre_hook(lambda *_: torch.zeros(2) + torch.zeros(3))
    try:
        with pytest.raises(LinscoreError, match=r"made for 64 tokens and does not run on 65 \(The size"):
            run(decoder, some_tokens(1, 65))
        with pytest.raises(RuntimeError, match="The size of tensor"):
            run(decoder, some_tokens(1, 64))
    finally:
        failing.remove()


def test_given_positions_reach_the_model() -> None:
    tokens, shifted = some_tokens(), torch.arange(9).expand(2, 9) + 3
    moved = states_of(decoder_of("gpt2"), tokens, None, shifted)[0].x
    model = shared("gpt2").transformer
    torch.testing.assert_close(moved, model.wte(tokens) + model.wpe(shifted))
    with pytest.raises(LinscoreError, match="has 64 positions, and a row has 67"):
        run(decoder_of("gpt2"), tokens, None, shifted + 55)
    with pytest.raises(LinscoreError, match="takes no position_ids"):
        run(decoder_of("bloom"), tokens, None, shifted)
