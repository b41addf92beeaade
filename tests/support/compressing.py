"""Compressing a tiny decoder on a text of its own, and what the result costs by transformers' own loss."""

import torch
from tiny_models import tiny
from transformers import AutoTokenizer

import linscore
from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.jobs.compress import run_compress
from linscore.jobs.compress_texts import read_texts
from linscore.models.load import load_pretrained
from linscore.options.cut import CompressOptions, CutOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.text.source import Text

CPU = PlaceOptions(device="cpu")


def prepare(folder):
    """A decoder of two blocks, and a text of its own."""
    tiny("llama", vocab_size=2048, num_hidden_layers=2).save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(EMBEDDED_MODEL).save_pretrained(folder / "model")
    path = folder / "text.txt"
    path.write_text("".join(f"def f{n}(x, y={n}):\n    return x * {n * 7 % 13} + y\n" for n in range(160)))
    return str(folder / "model"), TextOptions(text=str(path), seq_len=16, batch_size=32)


def run(given, out, resume=False, place=CPU, say=lambda _line: None, **wanted):
    model, text = given
    cut = CutOptions(**{name: wanted.pop(name) for name in ("by", "moments") if name in wanted})
    options = CompressOptions(**{"params": 0.7, "measure_tokens": 128} | wanted)
    more = {"cut": cut, "text": text, "place": place, "resume": resume, "progress": say}
    return run_compress(model, out=str(out), wanted=options, **more)


def loss_of(folder, given):
    """Transformers' own loss of a saved model on the text that reports."""
    loaded = load_pretrained(given[0], device="cpu")
    texts = read_texts(loaded, Text(given[1]), 128)
    model, total, count = linscore.load(str(folder), device="cpu"), 0.0, 0
    with torch.no_grad():
        for batch in texts.report:
            ids = batch["input_ids"]
            total += float(model(ids, labels=ids).loss) * ids[:, 1:].numel()
            count += ids[:, 1:].numel()
    return total / count
