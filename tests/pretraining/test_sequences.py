"""A corpus on disk and the sequences that are cut out of it, against lists in memory."""

import itertools
import random

import numpy as np
import pytest
import torch

from linscore.embedded.shipped import EMBEDDED_TEXT
from linscore.errors import LinscoreError
from linscore.models.load import load_tokenizer
from linscore.pretraining import token_store as corpora
from linscore.pretraining.sequences import PackedSequences, consecutive
from linscore.pretraining.token_store import TokenizedCorpus, standard_library, tokenize, train_tokenizer

DOCUMENTS = ["def f(x):\n    return x\n", "", "import os\n" * 40, ["class A:\n", "    pass\n"], "π ≈ 3\n"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


def numbered(lengths):
    """A corpus whose documents are runs of the numbers 0, 1, 2, …"""
    return TokenizedCorpus(np.arange(sum(lengths), dtype=np.uint16), np.cumsum(lengths))


@pytest.mark.parametrize("batch_chars", [1 << 22, 50])
def test_the_ids_of_each_document_and_its_end(tmp_path, tokenizer, monkeypatch, batch_chars):
    monkeypatch.setattr(corpora, "BATCH_CHARS", batch_chars)
    found = tokenize(DOCUMENTS, tokenizer, tmp_path)
    texts = [text if isinstance(text, str) else "".join(text) for text in DOCUMENTS if text]
    wanted = [[*tokenizer(text, add_special_tokens=False)["input_ids"], 0] for text in texts]
    assert found.tokens.tolist() == list(itertools.chain(*wanted))
    assert found.ends.tolist() == np.cumsum([len(ids) for ids in wanted]).tolist()
    assert found.tokens.dtype == np.uint16
    again = TokenizedCorpus.open(tmp_path)
    assert again.tokens.tolist() == found.tokens.tolist()


def test_a_limit_cuts_the_last_document(tmp_path, tokenizer):
    whole = tokenizer(DOCUMENTS[0])["input_ids"]
    found = tokenize(DOCUMENTS, tokenizer, tmp_path, tokens=len(whole) + 6)
    assert found.ends.tolist() == [len(whole) + 1, len(whole) + 6]
    assert len(found.tokens) == len(whole) + 6


def test_an_empty_text_is_refused(tmp_path, tokenizer):
    with pytest.raises(LinscoreError, match="text to train on is empty"):
        tokenize([""], tokenizer, tmp_path)


def test_the_last_part_of_a_corpus_is_held_out():
    training, heldout = numbered([50, 30, 20]).split(0.25)
    assert training.tokens.tolist() == list(range(75))
    assert training.ends.tolist() == [50, 75]
    assert heldout.tokens.tolist() == list(range(75, 100))
    assert heldout.ends.tolist() == [5, 25]


def test_an_epoch_strings_shuffled_documents_together_and_reads_them_once():
    lengths = [7, 1, 30, 12, 50, 3, 9]
    corpus, length = numbered(lengths), 8
    starts = np.cumsum([0, *lengths])
    documents = [tuple(range(a, b)) for a, b in itertools.pairwise(starts)]
    sequences = PackedSequences(corpus, length, count=100, seed=3)
    epoch = [tuple(sequences[index]["input_ids"].tolist()) for index in range(sequences.per_epoch)]
    tokens = [token for row in epoch for token in row]
    assert len(set(tokens)) == len(tokens) > 0.8 * sum(lengths)
    # Within a row, a number is followed by the next one, but where its document ends.
    last, first = {document[-1] for document in documents}, {document[0] for document in documents}
    for row in epoch:
        for one, following in itertools.pairwise(row):
            assert following == one + 1 or (one in last and following in first)


def test_what_is_read_follows_from_seed_and_place_alone():
    corpus = numbered([40, 25, 61])
    one, other = PackedSequences(corpus, 8, 90, 5), PackedSequences(corpus, 8, 90, 5)
    places = list(range(90))
    random.Random(0).shuffle(places)
    shuffled = {place: other[place]["input_ids"] for place in places}
    assert all(torch.equal(one[place]["input_ids"], shuffled[place]) for place in range(90))
    epoch = one.per_epoch
    assert any(not torch.equal(one[place]["input_ids"], one[place + epoch]["input_ids"]) for place in range(epoch))
    another = PackedSequences(corpus, 8, 90, 6)
    assert any(not torch.equal(one[place]["input_ids"], another[place]["input_ids"]) for place in range(epoch))


def test_labels_are_the_ids_and_places_end():
    sequences = PackedSequences(numbered([40]), 8, 6, 0)
    assert torch.equal(sequences[5]["labels"], sequences[5]["input_ids"])
    assert sequences[0]["input_ids"].dtype == torch.int64
    with pytest.raises(IndexError):
        sequences[6]


def test_consecutive_sequences():
    assert consecutive(numbered([10, 9]), 4, 13).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    with pytest.raises(LinscoreError, match="do not fill a sequence of 4"):
        consecutive(numbered([10]), 4, 3)


def test_a_corpus_of_less_than_two_sequences():
    with pytest.raises(LinscoreError, match="15 tokens, too few for two sequences of 8"):
        PackedSequences(numbered([15]), 8, 1, 0)


def test_a_new_tokenizer_encodes_every_text():
    made = train_tokenizer(DOCUMENTS, 270)
    assert len(made) == 270
    assert made.decode(made("żółw\t=\x00")["input_ids"]) == "żółw\t=\x00"
    with pytest.raises(LinscoreError, match="vocab_size is 256"):
        train_tokenizer(DOCUMENTS, 256)


@pytest.mark.slow
def test_the_standard_library_without_what_ships_as_heldout_text():
    heldout = {path.read_text(encoding="utf-8") for path in EMBEDDED_TEXT.glob("*.py.txt")}
    texts = list(standard_library())
    assert len(texts) > 500
    assert not heldout & set(texts)
    assert any("class NodeVisitor(" in text for text in texts)  # of ast.py


def test_what_is_left_out_of_the_standard_library(tmp_path, monkeypatch):
    """The held-out modules and their tests by name, whatever is in them; other people's packages; codecs."""
    gone = ("heapq.py", "test/test_heapq.py", "site-packages/numpy.py", "encodings/cp037.py", "test/csv_data/data.py")
    for name in (*gone, "ast.py", "test/test_ast.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(name, encoding="utf-8")
    (tmp_path / "latin.py").write_bytes(b"\xe9")
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path))
    assert list(standard_library()) == ["ast.py", "test/test_ast.py"]
