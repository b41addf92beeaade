"""Special tokens: once each, whether the tokenizer adds them or the text spells them."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from linscore.evaluation.windows import Reader
from linscore.pretraining.token_store import tokenize
from linscore.text.packing import pack
from linscore.text.tokens import OddTokens, overlap, text_ids

A, B, EOS, BOS = range(4)


@pytest.fixture(scope="module")
def tokenizer():
    rust = Tokenizer(models.WordLevel({"a": A, "b": B, "<eos>": EOS, "<bos>": BOS, "?": 4}, unk_token="?"))
    rust.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [("<bos>", BOS), ("<eos>", EOS)]
    rust.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=rust, eos_token="<eos>", bos_token="<bos>")


SPELLED = [
    ("a b", [BOS, A, B, EOS]),
    ("<bos> a b", [BOS, A, B, EOS]),
    ("a b <eos>", [BOS, A, B, EOS]),
    ("<bos> a <bos> b <eos>", [BOS, A, BOS, B, EOS]),
    ("a <bos>", [BOS, A, BOS, EOS]),
]


@pytest.mark.parametrize(("text", "expected"), SPELLED)
def test_special_tokens_that_a_text_spells_are_not_doubled(tokenizer, tmp_path, text, expected):
    (sequence,) = pack([text], tokenizer, seq_len=len(expected), folds=1)
    assert sequence.input_ids == expected
    tokenize([text], tokenizer, tmp_path)
    assert np.fromfile(tmp_path / "tokens.bin", np.uint16).tolist() == expected
    (ids,) = text_ids(tokenizer, [text])
    assert ids == (expected if text.endswith("<eos>") else expected[:-1])


@pytest.mark.parametrize("text", ["a b", "<bos> a b"])
def test_perplexity_counts_the_same_tokens_whoever_spells_bos(tokenizer, text):
    reader = Reader(tokenizer, None)
    (window,) = reader.windows([text], 8, 8)
    assert window.ids == [BOS, A, B]
    assert window.predicted == 2


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [([], [1], 0), ([1], [], 0), ([1, 2], [2, 3], 1), ([1, 2], [1, 2], 2), ([1, 2, 1], [1, 2, 1, 2], 3), ([1], [2], 0)],
)
def test_overlap_is_the_longest(before, after, expected):
    assert overlap(before, after) == expected


def byte_level(words):
    """A byte-level vocabulary of all bytes, some words and filling."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: at for at, token in enumerate([*alphabet, *words, *(f"filling{n}" for n in range(300))])}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="filling0")))


def test_tokens_of_text_that_a_tokenizer_was_not_made_for_are_counted(tokenizer):
    bytes_of = byte_level(["word"])
    ids = bytes_of.convert_tokens_to_ids
    high = ["Ñ", "Ģ", "Ń"]  # 0xD1, 0x80, 0xAD
    odd = OddTokens(bytes_of)
    list(odd.watch([{"input_ids": torch.tensor([[*map(ids, high), ids("word"), ids("a"), ids("Ġ")]])}]))
    assert odd.share == 0.5
    few = OddTokens(tokenizer)  # a vocabulary of little more than bytes
    list(few.watch([{"input_ids": torch.tensor([[4, 4]])}]))
    assert few.share == 0
