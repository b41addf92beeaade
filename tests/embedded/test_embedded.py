"""The decoder that ships with linscore: it has learned, and its job runs on what is in the package."""

import json
import lzma
import math
from itertools import pairwise

import pytest
import torch

from linscore import LinscoreError, cli
from linscore.embedded.shipped import EMBEDDED, EMBEDDED_TEXT, SHIPPED
from linscore.models.load import load, load_pretrained, load_tokenizer


@pytest.mark.parametrize("folder", SHIPPED.values(), ids=SHIPPED)
def test_the_weights_are_small_and_the_blocks_8_to_12(folder):
    assert (folder / "model.safetensors").stat().st_size <= 6_000_000
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert 8 <= config["num_hidden_layers"] <= 12


@pytest.mark.slow
def test_the_regularized_sibling_reads_the_same_tokens_and_differs_in_nothing_but_its_weights():
    plain, sibling = (load_pretrained(name, device="cpu") for name in SHIPPED)
    text = (EMBEDDED_TEXT / "heapq.py.txt").read_text(encoding="utf-8")
    assert plain.tokenizer(text).input_ids == sibling.tokenizer(text).input_ids
    shapes = [{name: tensor.shape for name, tensor in one.model.state_dict().items()} for one in (plain, sibling)]
    assert shapes[0] == shapes[1]
    ids = torch.tensor([plain.tokenizer(text).input_ids[:512]])
    cosines = []
    for one in (plain, sibling):
        with torch.no_grad():  # the last state of transformers' list is behind the final norm
            states = one.model(ids, output_hidden_states=True).hidden_states[:-1]
        cosines.append(torch.stack([torch.cosine_similarity(x, y, dim=-1).mean() for x, y in pairwise(states)]).mean())
    assert cosines[1] > cosines[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_it_needs_fewer_bits_per_byte_on_heldout_files_than_xz(name):
    texts = [path.read_text(encoding="utf-8") for path in sorted(EMBEDDED_TEXT.glob("*.py.txt"))]
    xz = 8 * len(lzma.compress("".join(texts).encode(), preset=9)) / len("".join(texts).encode())
    loaded = load_pretrained(name, device="cpu")
    picked = texts[3] + texts[7]  # windows that know nothing of the text before them: a bound from above
    ids = torch.tensor([0, *loaded.tokenizer(picked)["input_ids"]])
    bits = 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, 511):
            window = ids[start : start + 512]
            bits += loaded.model(window[None], labels=window[None]).loss.item() * (len(window) - 1) / math.log(2)
    assert bits / len(picked.encode()) < xz


@pytest.mark.parametrize("read", [load, load_pretrained, load_tokenizer])
def test_a_package_without_the_sibling_says_where_it_is(read, monkeypatch, tmp_path):
    monkeypatch.setitem(SHIPPED, "embedded-cosine", tmp_path / "cosine")
    with pytest.raises(LinscoreError, match=r"^embedded-cosine comes with linscore's repository, not with"):
        read("embedded-cosine")


@pytest.mark.slow
def test_the_default_job_scores_the_shipped_text(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["linscore", "score", "--tokens", "8192", "--out", str(tmp_path), "--json"])
    cli.main()
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == EMBEDDED
    assert len(report["blocks"]) == 10
    for block in report["blocks"]:
        assert 0 < block["linearity_heldout"] < block["linearity"] < 1
        assert block["linearity"] - block["procrustes"] >= 0
