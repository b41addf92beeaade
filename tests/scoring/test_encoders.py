"""Encoders, on request: the figures of their states, as transformers gives them; without it they are refused."""

import json

import pytest
import torch
import transformers
from oracles import svd_scores
from words import tokenizer, words

from linscore import LinscoreError, score

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BERT = {**SIZES, "vocab_size": 64, "max_position_embeddings": 64, "initializer_range": 0.5}
RANK = 1e-5  # what a norm leaves of states lies in a plane, but for rounding
T5 = {
    "vocab_size": 64,
    "d_model": 16,
    "num_layers": 2,
    "num_heads": 2,
    "d_kv": 8,
    "d_ff": 32,
    "initializer_factor": 2.0,
}


def random(kind, config):
    """A model of random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval()


def bert():
    return random(transformers.BertForMaskedLM, transformers.BertConfig(**BERT))


def t5():
    return random(transformers.T5EncoderModel, transformers.T5Config(**T5))


def token_batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(5, 64, (4, 30), generator=generator) for _ in range(4)]


@torch.no_grad()
def hidden(model, **inputs):
    return model(**inputs, output_hidden_states=True).hidden_states


def check(report, states):
    """Every block's figures are those of the states around it, `[n, d]` each."""
    assert len(report.blocks) == len(states) - 1
    for block, x, y in zip(report.blocks, states, states[1:], strict=False):
        assert block.rows == len(x)
        wanted = svd_scores(x, y, RANK)
        assert (block.linearity, block.linearity_no_residual) == pytest.approx(wanted, abs=1e-5)


def test_bert_scores_as_the_states_that_it_gives():
    model = bert()
    report = score(model, token_batches(), encoder=True)
    of_batches = [hidden(model, input_ids=ids) for ids in token_batches()]
    check(report, [torch.cat(layer).flatten(0, 1) for layer in zip(*of_batches, strict=True)])
    assert report.warnings[0].kind == "encoder"
    assert report.loss is None


def test_a_padded_batch_scores_as_its_texts_without_padding():
    model, ids = bert(), torch.cat(token_batches())
    mask = torch.ones_like(ids)
    mask[::2, 17:] = 0
    report = score(model, [{"input_ids": ids, "attention_mask": mask}], encoder=True)
    alone = [hidden(model, input_ids=row[real.bool()][None]) for row, real in zip(ids, mask, strict=True)]
    check(report, [torch.cat([one[0] for one in layer]) for layer in zip(*alone, strict=True)])


@pytest.mark.parametrize("model", [bert, t5])
def test_without_being_asked_for_an_encoder_is_refused(model):
    with pytest.raises(LinscoreError, match="block 0 tokens see later tokens; give a causal model, or `encoder`"):
        score(model(), token_batches())
    assert len(score(model(), token_batches(), encoder=True).blocks) == 2


def test_a_decoder_scores_the_same_either_way():
    model = random(transformers.BertModel, transformers.BertConfig(**BERT, is_decoder=True))
    assert score(model, token_batches(), encoder=True).blocks == score(model, token_batches()).blocks


@pytest.mark.slow
def test_the_command_line_scores_an_encoder_that_is_no_language_model(tmp_path, run):
    folder, text = tmp_path / "model", tmp_path / "text.txt"
    distil = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 32}
    config = transformers.DistilBertConfig(vocab_size=64, initializer_range=0.5, **distil)
    model, reader = random(transformers.DistilBertModel, config), tokenizer()
    model.save_pretrained(folder)
    reader.save_pretrained(folder)
    text.write_text(words(640))
    asked = ("score", folder, "--text", text, "--out", tmp_path / "out", "--json")
    code, _, error = run(*asked)
    assert code == 2
    assert "is not a decoder" in error
    assert "--encoder" in error
    assert not (tmp_path / "out" / "report.json").exists()
    code, out, error = run(*asked, "--encoder")
    assert code == 0, error
    found = json.loads(out)
    assert found["warnings"][0]["kind"] == "encoder"
    ids = reader(text.read_text(), return_tensors="pt").input_ids[0][: found["tokens"]]
    states = hidden(model, input_ids=ids.view(-1, 32))
    for block, x, y in zip(found["blocks"], states, states[1:], strict=False):
        wanted = svd_scores(x.flatten(0, 1), y.flatten(0, 1), RANK)
        assert (block["linearity"], block["linearity_no_residual"]) == pytest.approx(wanted, abs=1e-5)
