"""Passes over a text; how many tokens it has is what its tokenizer alone says."""

import pytest
import torch
from tiny_models import tiny
from transformers import AutoTokenizer

from linscore import LinscoreError
from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.jobs.passes import Passes, windows
from linscore.models.load import Pretrained
from linscore.options.text import TextOptions
from linscore.text.source import Text

CONTEXT = 32


@pytest.fixture(scope="module")
def loaded():
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    return Pretrained("tiny", tiny("llama", vocab_size=2048), tokenizer, CONTEXT, None)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("".join(f"def f{n}(x):\n    return x + {n}\n" for n in range(20)))
    return file


def test_each_pass_begins_at_the_start_and_counts_its_own_tokens(loaded, path):
    ids = loaded.tokenizer(path.read_text(), add_special_tokens=False)["input_ids"]
    in_front = loaded.tokenizer("")["input_ids"]
    predicted = Passes(loaded, Text(TextOptions(text=str(path))), windows(loaded))
    packed = Passes(loaded, Text(TextOptions(text=str(path), seq_len=8, tokens=80)))
    for read, count in ((predicted, len(ids) - (not in_front)), (packed, 80)):
        once, again = list(read()), list(read())
        assert read.tokens == count
        assert len(once) == len(again)
        for one, other in zip(once, again, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_options_of_the_text_are_refused_before_a_batch_is_taken(loaded, path):
    read = Passes(loaded, Text(TextOptions(text=str(path), seq_len=CONTEXT + 1)))
    with pytest.raises(LinscoreError, match=r"`seq_len=33` is longer than the context"):
        read()
    with pytest.raises(LinscoreError, match=r"`seq_len=33` is longer than the context"):
        windows(loaded, CONTEXT + 1, argument="seq_len")
