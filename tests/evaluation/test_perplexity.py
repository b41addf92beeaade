"""Sliding-window losses, against transformers' own loss, single predictions by the definition, and worked by hand."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from tiny_models import VOCABULARY, tiny
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.errors import LinscoreError, LinscoreWarning
from linscore.evaluation.perplexity import next_token_losses, text_loss

pytestmark = pytest.mark.usefixtures("one_thread")
FIRST_WORD, BOS = 10, 1
FAMILIES = ["llama", "gpt2", "bloom", "mistral", "gemma2", "gpt_oss", "mamba2", "opt"]


def word_tokenizer(*, bos):
    """The word "w0" is token 10, "w1" 11, …"""
    vocabulary = {f"w{at}": FIRST_WORD + at for at in range(VOCABULARY - FIRST_WORD)} | {"<bos>": BOS, "?": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_tokenizer():
    """A byte is a token: GPT-2's alphabet, without merges and without BOS."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: at for at, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def random_ids(lengths):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(FIRST_WORD, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def text_of(ids):
    return " ".join(f"w{at - FIRST_WORD}" for at in ids)


class Unigram(nn.Module):
    """Says the same of every token, whatever came before; ignores what it is not asked."""

    device = torch.device("cpu")

    def __init__(self, probabilities):
        super().__init__()
        self.logits = torch.tensor(probabilities).log() + 3.0  # a constant that softmax takes away
        self.rows = []

    def forward(self, input_ids):
        self.rows.append(tuple(input_ids.shape))
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


@torch.no_grad()
def single_predictions(model, ids, window, stride):
    """Each token from exactly the context that the definition gives it, one by one, float64."""
    losses = []
    for at in range(1, len(ids)):
        windows_before = 0 if at <= window else math.ceil((at - window) / stride)
        context = ids[windows_before * stride : at]
        assert min(at, window - stride) <= len(context) <= window
        logits = model(torch.tensor([context]), use_cache=False).logits[0, -1].double()
        losses.append(float(logits.logsumexp(0) - logits[ids[at]]))
    return losses


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_shorter_than_the_window_costs_what_transformers_says(family):
    model, [ids] = tiny(family), random_ids([30])
    framed = torch.tensor([[BOS, *ids]])
    expected = model(input_ids=framed, labels=framed).loss.item()
    found = text_loss(model, word_tokenizer(bos=True), [text_of(ids)], window=40, stride=20)
    assert found.tokens == 30
    assert found.nats_per_token == pytest.approx(expected, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(expected), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize(("window", "stride", "batch_size"), [(8, 4, 3), (7, 7, 1), (9, 1, 4), (1, 1, 8), (10, 3, 100)])
def test_every_token_is_predicted_once_from_the_context_of_its_definition(bos, window, stride, batch_size):
    model, documents = tiny("gpt2"), random_ids([23, 1, 5, 8, 9, 10, 31])
    losses = [single_predictions(model, [BOS] * bos + ids, window, stride) for ids in documents]
    found = text_loss(
        model,
        word_tokenizer(bos=bos),
        map(text_of, documents),
        window=window,
        stride=stride,
        batch_size=batch_size,
    )
    assert found.tokens == sum(map(len, losses))
    assert found.nll == pytest.approx(math.fsum(itertools.chain(*losses)), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_batches_change_nothing_in_any_family(family):
    model, documents = tiny(family), random_ids([17, 5, 11])
    losses = [single_predictions(model, [BOS, *ids], 8, 5) for ids in documents]
    found = text_loss(model, word_tokenizer(bos=True), map(text_of, documents), window=8, stride=5, batch_size=4)
    assert found.nll == pytest.approx(math.fsum(itertools.chain(*losses)), rel=2e-5)


def test_a_batch_without_room_is_run_in_parts_and_costs_the_same():
    model, rows = tiny("llama"), []

    def allocate(_block, args):
        rows.append(len(args[0]))
        if rows[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    asked = {"window": 8, "stride": 4, "batch_size": 5}
    documents = [text_of(ids) for ids in random_ids([40, 3, 21])]
    whole = text_loss(model, word_tokenizer(bos=True), documents, **asked)
    model.model.layers[1].register_forward_pre_hook(allocate)
    with pytest.warns(LinscoreWarning, match="5 sequences at once need more memory than there is: 3 are run"):
        found = text_loss(model, word_tokenizer(bos=True), documents, **asked)
    assert (found.tokens, found.bytes) == (whole.tokens, whole.bytes)
    assert found.nll == pytest.approx(whole.nll, rel=1e-6)
    assert [count for count in rows if count > 2] == [5, 3]  # once each


def test_bytes_and_loss_of_a_unigram_model_as_worked_by_hand():
    # Of 256 byte tokens "a" has probability 1/2, the others share the rest. "abaé" is a, b, a, 2 bytes; the first one
    # is not predicted: ln 510 · 3 + ln 2 over 4 tokens and 4 bytes.
    tokenizer = byte_tokenizer()
    a = tokenizer.convert_tokens_to_ids("a")
    model = Unigram([0.5 if at == a else 0.5 / 255 for at in range(256)])
    found = text_loss(model, tokenizer, ["abaé"], window=2, stride=1)
    assert (found.tokens, found.bytes) == (4, 4)
    assert found.nll == pytest.approx(3 * math.log(510) + math.log(2), rel=1e-6)
    assert found.bits_per_byte == pytest.approx((3 * math.log2(510) + 1) / 4, rel=1e-6)
    assert found.perplexity == pytest.approx((510**3 * 2) ** 0.25, rel=1e-5)


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 6, 7, 50])
def test_bytes_of_a_cut_text_are_exact_for_byte_level_tokenizers(tokens):
    # One token is one byte, so that each predicted token is one; the cut goes through é and 語.
    model = Unigram([1 / 256] * 256)
    found = text_loss(model, byte_tokenizer(), ["aé語", "bc"], window=3, stride=2, tokens=tokens)
    assert found.tokens == found.bytes == min(tokens, 6)


def test_bytes_are_those_of_the_text_where_every_token_is_predicted():
    model, texts = Unigram([1 / VOCABULARY] * VOCABULARY), ["w1  w2 \n w3", "w40"]
    found = text_loss(model, word_tokenizer(bos=True), texts, window=3, stride=2)
    assert (found.tokens, found.bytes) == (4, sum(len(text.encode()) for text in texts))


def test_bytes_of_the_first_token_do_not_count_without_bos():
    model = Unigram([1 / VOCABULARY] * VOCABULARY)
    found = text_loss(model, word_tokenizer(bos=False), ["w11 w2 w3"], window=3, stride=2)
    assert (found.tokens, found.bytes) == (2, len(" w2 w3"))


def test_a_document_in_pieces_is_one_document():
    model, [ids] = tiny("llama"), random_ids([40])
    text = text_of(ids)
    options = {"window": 8, "stride": 3}
    whole = text_loss(model, word_tokenizer(bos=True), [text], **options)
    pieces = text_loss(model, word_tokenizer(bos=True), [iter([text[:50], text[50:]])], **options)
    assert (pieces.nll, pieces.tokens, pieces.bytes) == (whole.nll, whole.tokens, whole.bytes)


def test_a_document_longer_than_a_piece_of_the_tokenizer_is_predicted_whole(monkeypatch):
    monkeypatch.setattr("linscore.text.tokens.PIECE_CHARS", 1000)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    text = "x = 1\n" * 1234  # cut behind line ends, where the tokenizer cuts too
    ids = tokenizer.encode(text)
    model = Unigram([1 / len(tokenizer)] * len(tokenizer))
    found = text_loss(model, tokenizer, [text], window=64, stride=32, batch_size=16)
    assert found.tokens == len(ids) - 1
    assert found.bytes == len(text) - len(tokenizer.decode(ids[:1]))


def test_endless_text_is_read_as_far_as_it_is_needed():
    endless = (iter(("w1 w2 ",) * 10) for _ in itertools.count())
    seen = []
    model = Unigram([1 / VOCABULARY] * VOCABULARY)
    found = text_loss(model, word_tokenizer(bos=True), endless, window=8, stride=4, tokens=77, progress=seen.append)
    assert found.tokens == sum(seen) == 77
    assert found.nll == pytest.approx(77 * math.log(VOCABULARY), rel=1e-6)


def test_no_row_is_longer_than_the_window_and_no_batch_larger_than_asked():
    model = Unigram([1 / VOCABULARY] * VOCABULARY)
    text_loss(model, word_tokenizer(bos=True), map(text_of, random_ids([50, 3, 20])), window=9, stride=2, batch_size=4)
    assert max(rows for rows, _ in model.rows) == 4
    assert max(columns for _, columns in model.rows) == 9


def test_mode_and_gradients_are_left_alone():
    model = tiny("gpt2").train()
    model.transformer.h[1].eval()
    found = text_loss(model, word_tokenizer(bos=True), [text_of(random_ids([20])[0])], window=8, stride=4)
    expected = text_loss(tiny("gpt2"), word_tokenizer(bos=True), [text_of(random_ids([20])[0])], window=8, stride=4)
    assert found.nll == expected.nll
    assert model.training
    assert not model.transformer.h[1].training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_losses_of_the_last_tokens_are_those_of_all():
    model = tiny("gemma2")
    rows = torch.tensor(random_ids([12, 12]))
    with torch.no_grad():
        expected = -model(rows).logits[:, :-1].double().log_softmax(-1).gather(-1, rows[:, 1:, None])[..., 0]
        torch.testing.assert_close(next_token_losses(model, rows).double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(next_token_losses(model, rows, 3).double(), expected[:, -3:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 4, "stride": 5}, "`stride=5` is more than `window=4`"),
        ({"window": 0, "stride": 0}, "`window` is 0"),
        ({"window": 4, "stride": 0}, "`stride` is 0"),
        ({"window": 4, "stride": 2, "tokens": 0}, "`tokens` is 0"),
        ({"window": 4, "stride": 2, "batch_size": 0}, "`batch_size` is 0"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(LinscoreError, match=words):
        text_loss(tiny("gpt2"), word_tokenizer(bos=True), ["w1 w2"], **options)


@pytest.mark.parametrize("documents", [[], [""], ["w1", "w2"]])
def test_a_text_without_a_token_to_predict_is_refused(documents):
    with pytest.raises(LinscoreError, match="no token to predict"):
        text_loss(tiny("gpt2"), word_tokenizer(bos=False), documents, window=4, stride=2)
