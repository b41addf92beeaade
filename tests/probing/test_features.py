"""States of texts, against states gathered one text at a time by plain transformers."""

import math

import pytest
import torch
from tiny_models import DEPTH, WIDTH, tiny

from linscore.decoder.find import find_decoder
from linscore.errors import LinscoreError
from linscore.probing.features import pooled_states, text_features

pytestmark = pytest.mark.usefixtures("one_thread")


TEXTS = ["a", "def double(x):", "import os\nimport sys  # é", "return x", "class A:\n    pass", "raise ValueError(x)"]
LONGEST = 64


def decoder(family="llama", **changes):
    return find_decoder(tiny(family, vocab_size=2048, **changes))


@torch.no_grad()
def states_of(model, ids):
    """[L + 1, T, d] of one text without padding; the last one before the final norm, by a hook of this test's own."""
    kept = []
    last = find_decoder(model).blocks[-1]
    hook = last.register_forward_hook(lambda _block, _args, out: kept.append(out[0] if isinstance(out, tuple) else out))
    ids = torch.tensor([ids])
    states = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    hook.remove()
    if model.config.model_type == "mamba":  # transformers' list begins behind the first block
        return torch.cat([model.get_input_embeddings()(ids), *states[:-1]])
    return torch.cat([*states[:-1], *kept])


def features(found, tokenizer, texts=TEXTS, **options):
    return text_features(found, tokenizer, texts, **{"longest": LONGEST, "batch_tokens": 40, **options})


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "mamba"])
def test_features_are_the_states_of_each_text_alone(family, tokenizer):
    found = decoder(family)
    one_by_one = [states_of(found.model, tokenizer.encode(text, add_special_tokens=False)) for text in TEXTS]
    last = torch.stack([states[:, -1] for states in one_by_one], 1)
    mean = torch.stack([states.mean(1) for states in one_by_one], 1)
    assert last.shape == (DEPTH + 1, len(TEXTS), WIDTH)
    torch.testing.assert_close(features(found, tokenizer).states, last, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features(found, tokenizer, pool="mean").states, mean, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_the_side_of_the_padding_changes_nothing(pool):
    found, token = decoder(), 5
    rows = [[7, 8, 9, 10], [11, 12], [13, 14, 15]]
    alone = [pooled_states(found, torch.tensor([row]), torch.ones(1, len(row)), pool) for row in rows]
    for left in (True, False):
        pads = [[token] * (6 - len(row)) for row in rows]
        ids = [pad + row if left else row + pad for pad, row in zip(pads, rows, strict=True)]
        masks = [[0] * len(pad) + [1] * len(row) for pad, row in zip(pads, rows, strict=True)]
        masks = masks if left else [mask[::-1] for mask in masks]
        together = pooled_states(found, torch.tensor(ids), torch.tensor(masks), pool)
        torch.testing.assert_close(together, torch.cat(alone, 1), atol=1e-5, rtol=1e-4)


def test_batches_and_the_tokenizers_padding_side_change_nothing(tokenizer):
    found, expected = decoder(), None
    for side, options in (("left", {"batch_size": 1}), ("right", {"batch_size": 4}), ("left", {"batch_tokens": 1000})):
        tokenizer.padding_side = side
        states = features(found, tokenizer, **options).states
        expected = states if expected is None else expected
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-4)


def test_long_texts_lose_their_end_and_are_counted(tokenizer):
    found = decoder()
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    cut = features(found, tokenizer, longest=3)
    assert cut.truncated == sum(len(tokens) > 3 for tokens in ids) > 0
    expected = torch.stack([states_of(found.model, tokens[:3])[:, -1] for tokens in ids], 1)
    torch.testing.assert_close(cut.states, expected, atol=1e-5, rtol=1e-4)


def test_what_the_tokenizer_puts_in_front_stays_and_what_it_puts_behind_goes(tokenizer):
    class Framing:
        """[1] text [2], as BERT-like tokenizers frame a text."""

        eos_token_id = 2

        def __call__(self, text, add_special_tokens, **_options):
            ids = tokenizer.encode(text, add_special_tokens=False)
            return {"input_ids": [1, *ids, 2] if add_special_tokens else ids}

    found = decoder()
    expected = [states_of(found.model, [1, *tokenizer.encode(t, add_special_tokens=False)])[:, -1] for t in TEXTS]
    torch.testing.assert_close(features(found, Framing()).states, torch.stack(expected, 1), atol=1e-5, rtol=1e-4)


def test_states_that_are_not_finite_are_refused(tokenizer):
    found = decoder()
    with torch.no_grad():
        found.blocks[1].mlp.down_proj.weight.fill_(math.inf)
    with pytest.raises(LinscoreError, match=r"not finite .* in layer 2"):
        features(found, tokenizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "first"}, "`pool` is 'first': give last or mean"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"texts": ["a", ""]}, "row 2 is empty"),
    ],
)
def test_features_that_cannot_be_had(tokenizer, options, message):
    with pytest.raises(LinscoreError, match=message):
        features(decoder(), tokenizer, **options)
