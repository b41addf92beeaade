"""A checkpoint of text and images given to the command line: its text decoder is scored and cut."""

import json

import pytest
from multimodal_models import multimodal
from transformers import AutoTokenizer

from linscore import find_decoder
from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.models.load import load


@pytest.mark.slow
def test_the_text_decoder_is_scored_and_cut(run, models, tmp_path):
    """Of LLaVA: transformers has no causal language model by that name."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    whole = multimodal("llava", len(tokenizer) + 4)
    whole.save_pretrained(tmp_path / "whole")
    tokenizer.save_pretrained(tmp_path / "whole")
    text = ("--text", models / "text.txt", "--seq-len", 64)
    assert run("score", tmp_path / "whole", *text, "--out", tmp_path / "scores")[0] == 0
    report = json.loads((tmp_path / "scores" / "report.json").read_text())
    assert [block["index"] for block in report["blocks"]] == [0, 1, 2]
    options = ("--moments", tmp_path / "scores", "--replace", "1", "--out", tmp_path / "linear")
    assert run("linearize", tmp_path / "whole", *options)[0] == 0
    linear = load(tmp_path / "linear")
    assert type(linear).__name__ == "LlavaForConditionalGeneration"
    assert sum(hasattr(block, "center") for block in find_decoder(linear).blocks) == 1
    assert len(linear.model.vision_tower.encoder.layers) == 2
