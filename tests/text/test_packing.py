"""Packing, against packings worked by hand and against the rules followed naively on whole token lists."""

import itertools
import json
import json.decoder
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from linscore.errors import LinscoreError
from linscore.text import tokens as corpus
from linscore.text.packing import Sequence, batches, pack

WORDS = [*"abcdefghijklmnopqrstuvwxyz", *map(str, range(3000))]
EOS, BOS = len(WORDS), len(WORDS) + 1


def word_tokenizer(*, eos=False, template=None):
    """A word is a token: letters are 0 to 25, the number n is 26 + n, then EOS and BOS."""
    vocabulary = {word: at for at, word in enumerate([*WORDS, "<eos>", "<bos>", "?"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        special = [("<bos>", BOS), ("<eos>", EOS)]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>" if eos else None)


def byte_level_tokenizer(text):
    """A GPT-2-like tokenizer with a few hundred merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


PLAIN = word_tokenizer()


def ids(words):
    return [WORDS.index(word) if word in WORDS else EOS for word in words.split()]


def numbered(lengths):
    """Documents of so many words, every word of the corpus another one."""
    words = map(str, itertools.count())
    return [" ".join(itertools.islice(words, length)) for length in lengths]


def all_ids(sequences):
    return [id_ for sequence in sequences for id_ in sequence.input_ids]


def fold_ids(sequences, folds):
    """Per fold, all its ids in order."""
    return [all_ids(s for s in sequences if s.fold == fold) for fold in range(folds)]


def naive_folds(lengths, seq_len, folds):
    """The rules, followed on token lists that lie in memory whole: per fold, every id that it was given."""
    given = [[] for _ in range(folds)]
    ids_left = itertools.count(26)
    for length in lengths:
        document = list(itertools.islice(ids_left, length))
        while document:
            so_far = sum(len(fold) // seq_len for fold in given)
            passage = seq_len * min(16, 1 + so_far // (4 * folds))
            smallest = min(given, key=len)
            smallest += document[:passage]
            document = document[passage:]
    return given


def test_short_documents_are_packed_as_worked_by_hand():
    # abcE fills fold 0 (4 tokens); dE to fold 1 (2); efgh to fold 1 (6), of which dEef is full; ijE to fold 0 (7);
    # kE to fold 1 (8), which completes ghkE; ijE stays behind.
    documents = ["a b c", "d", "e f g h i j", "k"]
    packed = list(pack(documents, word_tokenizer(eos=True), seq_len=4, folds=2))
    assert packed == [
        Sequence(ids("a b c E"), 0),
        Sequence(ids("d E e f"), 1),
        Sequence(ids("g h k E"), 1),
    ]


def test_the_passages_of_a_long_document_grow_as_worked_by_hand():
    # 1 sequence each up to 8 = 4 * folds, then 2 up to 16, then 3; 25 sequences make it 4.
    packed = list(pack(numbered([2 * 29]), PLAIN, seq_len=2, folds=2))
    assert [s.fold for s in packed] == [*[0, 1] * 4, *[0, 0, 1, 1] * 2, *[0] * 3, *[1] * 3, *[0] * 3, *[1] * 4]
    assert [s.input_ids for s in packed] == [[26 + 2 * at, 27 + 2 * at] for at in range(29)]


def test_a_passage_is_at_most_sixteen_sequences():
    folds = [s.fold for s in pack(numbered([3000]), PLAIN, seq_len=2, folds=2)]
    runs = [len(list(run)) for _, run in itertools.groupby(folds)]
    assert max(runs) == 16
    assert runs[-3:-1] == [16, 16]


@pytest.mark.slow
@given(
    lengths=st.lists(st.integers(0, 60) | st.integers(200, 700), min_size=1, max_size=12),
    seq_len=st.integers(2, 9),
    folds=st.integers(1, 4),
    tokens=st.none() | st.integers(36, 2000),
)
def test_packing_follows_the_rules_for_any_documents(lengths, seq_len, folds, tokens):
    lengths = [length for length in lengths if sum(lengths) <= 3000]
    oracle = naive_folds(lengths, seq_len, folds)
    if sum(len(fold) // seq_len for fold in oracle) < folds:
        with pytest.raises(LinscoreError):
            list(pack(numbered(lengths), PLAIN, seq_len=seq_len, folds=folds, tokens=tokens))
        return
    packed = list(pack(numbered(lengths), PLAIN, seq_len=seq_len, folds=folds, tokens=tokens))
    assert all(len(s.input_ids) == seq_len for s in packed)
    assert {s.fold for s in packed} == set(range(folds))
    for mine, whole in zip(fold_ids(packed, folds), oracle, strict=True):
        assert mine == whole[: len(mine)]  # nothing lost, doubled or out of order before the tail
        if tokens is None:
            assert len(whole) - len(mine) < seq_len
    if tokens is not None:
        assert len(packed) == min(tokens // seq_len, sum(len(fold) // seq_len for fold in oracle))


@pytest.mark.slow
@given(lengths=st.lists(st.integers(0, 60), min_size=20, max_size=60), folds=st.integers(1, 4))
def test_a_document_is_never_split_unless_longer_than_a_passage_and_folds_are_balanced(lengths, folds):
    seq_len = 5
    assume(sum(lengths) > folds * (60 + 2 * seq_len))
    packed = list(pack(numbered(lengths), PLAIN, seq_len=seq_len, folds=folds))
    fold_of = {number: s.fold for s in packed for number in s.input_ids}
    starts = itertools.accumulate(lengths, initial=26)
    for start, length in zip(starts, lengths, strict=False):
        if length <= seq_len:  # no passage is shorter than that
            assert len({fold_of[at] for at in range(start, start + length) if at in fold_of}) <= 1
    sizes = [len(fold) for fold in fold_ids(packed, folds)]
    assert max(sizes) - min(sizes) <= max(*lengths, seq_len) + seq_len


def test_a_small_text_fills_all_folds():
    packed = list(pack(numbered([2 * 8]), PLAIN, seq_len=4, folds=4))
    assert [s.fold for s in packed] == [0, 1, 2, 3]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_sequences_and_folds_are_the_same_whatever_the_batch_size(batch_size):
    packed = list(pack(numbered([40, 3, 100, 9, 55]), PLAIN, seq_len=4, folds=3))
    made = list(batches(iter(packed), batch_size))
    for batch in made:
        assert batch["input_ids"].dtype == batch["folds"].dtype == torch.int64
        assert batch["input_ids"].shape == (len(batch["folds"]), 4)
        assert len(set(batch["folds"].tolist())) == 1
        assert len(batch["folds"]) <= batch_size
    rows = [
        Sequence(row, fold)
        for b in made
        for row, fold in zip(b["input_ids"].tolist(), b["folds"].tolist(), strict=True)
    ]
    assert fold_ids(rows, 3) == fold_ids(packed, 3)
    assert sum(len(b["folds"]) < batch_size for b in made) <= 3  # only a fold's last batch is short


@pytest.mark.parametrize(
    ("template", "eos", "expected"),
    [
        (None, False, "a b"),
        (None, True, "a b E"),
        ("<bos> $A", False, "B a b"),
        ("<bos> $A", True, "B a b E"),
        ("<bos> $A <eos>", True, "B a b E"),
        ("$A <eos>", False, "a b E"),
    ],
)
@pytest.mark.parametrize("piece_chars", [2, 1000])
def test_special_tokens_frame_a_document_once(monkeypatch, template, eos, expected, piece_chars):
    monkeypatch.setattr("linscore.text.tokens.PIECE_CHARS", piece_chars)
    expected = [BOS if id_ == "B" else EOS if id_ == "E" else WORDS.index(id_) for id_ in expected.split()]
    tokenizer = word_tokenizer(eos=eos, template=template)
    (sequence,) = pack(["a b"], tokenizer, seq_len=len(expected), folds=1)
    assert sequence.input_ids == expected


def test_empty_documents_leave_no_special_tokens():
    tokenizer = word_tokenizer(eos=True, template="<bos> $A")
    packed = pack(["", iter([]), iter(["", ""]), "  ", "a b"], tokenizer, seq_len=4, folds=1)
    assert [s.input_ids for s in packed] == [[BOS, *ids("a b E")]]


SOURCE = Path(json.decoder.__file__).read_text()


@pytest.mark.parametrize("text", [SOURCE, " ".join(SOURCE.split())], ids=["lines", "words"])
@pytest.mark.parametrize("piece_chars", [200, 1000])
def test_tokens_do_not_depend_on_the_cuts_where_there_are_lines_or_words(monkeypatch, text, piece_chars):
    tokenizer = byte_level_tokenizer(SOURCE)
    whole = tokenizer(text)["input_ids"]
    monkeypatch.setattr("linscore.text.tokens.PIECE_CHARS", piece_chars)
    packed = pack([text], tokenizer, seq_len=2, folds=1)
    assert all_ids(packed) == whole[: len(whole) // 2 * 2]


@pytest.mark.slow
@given(st.text("ab \n", max_size=80), st.lists(st.integers(0, 80), max_size=6))
def test_tokens_do_not_depend_on_how_a_document_comes_in_pieces(text, cuts):
    text = "start" + text
    bounds = [0, *sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(bounds)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "PIECE_CHARS", 7)
        recut = list(corpus.recut(iter(pieces)))
        assert recut == list(corpus.recut(text))
    assert "".join(recut) == text
    assert all(0 < len(piece) <= 7 for piece in recut)


def test_tokens_stop_the_stream_before_the_text_ends():
    def endless():
        yield from itertools.repeat("a b c d e")

    packed = list(pack(endless(), PLAIN, seq_len=4, folds=2, tokens=103))
    assert len(packed) == 25
    assert len(list(pack(endless(), PLAIN, seq_len=4, folds=1, tokens=1))) == 1


def test_one_string_is_one_document():
    assert [s.input_ids for s in pack("a b", word_tokenizer(eos=True), seq_len=3, folds=1)] == [ids("a b E")]


@pytest.fixture
def outspoken():
    """transformers says what it has to say, whatever was imported before and has silenced it."""
    logger = transformers.utils.logging.get_logger("transformers")
    level, propagate = logger.level, logger.propagate
    transformers.utils.logging.set_verbosity_warning()
    logger.propagate = True
    yield
    logger.setLevel(level)
    logger.propagate = propagate


@pytest.mark.usefixtures("outspoken")
def test_a_text_longer_than_the_context_of_the_model_warns_nobody(caplog):
    tokenizer = word_tokenizer()
    tokenizer.model_max_length = 4
    list(pack(["a b c d e f g h"], tokenizer, seq_len=4, folds=2))
    assert "longer than" not in caplog.text
    tokenizer("a b c d e f g h")
    assert "longer than" in caplog.text  # left to itself it warns


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        (["a b c"], {"seq_len": 1}, "`seq_len` is 1: give 2 or more"),
        (["a b c"], {"folds": 0}, "`folds` is 0: give 1 or more"),
        (["a b c"], {"tokens": 0}, "`tokens` is 0: give 1 or more"),
        ([], {}, "the text is empty: give a file with text in it"),
        (["", iter([""])], {}, "the text is empty: give a file with text in it"),
        (
            ["a b c d e"],
            {"seq_len": 3},
            "the text gives 1 sequence of 3 tokens, but 2 folds need at least 2: "
            "give more text, or a smaller `seq_len`",
        ),
        (
            ["a b c d e"],
            {"seq_len": 6, "folds": 1},
            "the text gives 0 sequences of 6 tokens, but at least 1 is needed: give more text or a smaller `seq_len`",
        ),
        (
            ["a b c d e"],
            {"seq_len": 2, "folds": 2, "tokens": 3},
            "`tokens=3` gives 1 sequence of 2 tokens, but 2 folds need at least 2: "
            "give more `tokens`, or a smaller `seq_len`",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused_in_one_line(documents, options, message):
    with pytest.raises(LinscoreError) as refusal:
        list(pack(documents, PLAIN, **{"seq_len": 2, "folds": 2, **options}))
    assert str(refusal.value) == message


def test_too_small_a_text_is_refused_before_the_first_sequence():
    with pytest.raises(LinscoreError, match="2 folds need"):
        next(pack(["a b c"], PLAIN, seq_len=2, folds=2))


def test_a_batch_of_none_is_refused():
    with pytest.raises(LinscoreError, match="`batch_size` is 0: give 1 or more"):
        next(batches([], 0))
