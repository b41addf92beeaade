"""The decoder that ships with linscore: it has learned, and its job runs on what is in the package."""

import json
import lzma
import math

import torch

from linscore import cli
from linscore.pretrained import EMBEDDED_MODEL, EMBEDDED_TEXT, load_pretrained


def test_the_weights_are_small_and_the_blocks_8_to_12():
    assert (EMBEDDED_MODEL / "model.safetensors").stat().st_size <= 6_000_000
    config = json.loads((EMBEDDED_MODEL / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert 8 <= config["num_hidden_layers"] <= 12


def test_it_needs_fewer_bits_per_byte_on_heldout_files_than_xz():
    texts = [path.read_text(encoding="utf-8") for path in sorted(EMBEDDED_TEXT.glob("*.py.txt"))]
    xz = 8 * len(lzma.compress("".join(texts).encode(), preset=9)) / len("".join(texts).encode())
    loaded = load_pretrained(device="cpu")
    picked = texts[2] + texts[3]  # windows that know nothing of the text before them: a bound from above
    ids = torch.tensor([0, *loaded.tokenizer(picked)["input_ids"]])
    bits = 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, 511):
            window = ids[start : start + 512]
            bits += loaded.model(window[None], labels=window[None]).loss.item() * (len(window) - 1) / math.log(2)
    assert bits / len(picked.encode()) < xz


def test_the_default_job_scores_the_shipped_text(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["linscore", "score", "--tokens", "8192", "--out", str(tmp_path), "--json"])
    cli.main()
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == "embedded"
    assert len(report["blocks"]) == 10
    for block in report["blocks"]:
        assert 0 < block["linearity_heldout"] < block["linearity"] < 1
        assert block["linearity"] - block["procrustes"] >= 0
