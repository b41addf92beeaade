"""Whether the text keeps a device waiting: how fast it is read, alone, beside a GPU's launches, and in a score here.

    python -m benchmarks.studies.feeding [--rate 200000] [--megabytes 50]

The GPU is a stated rate of tokens a second: this process runs as many small operations a batch as a model of 16 blocks
and its sums launch kernels, which takes Python as they do, and sleeps for the rest of the batch's time.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import click
import torch
from torch import Tensor

import linscore
from linscore.embedded.shipped import EMBEDDED
from linscore.models.load import Pretrained, load_pretrained
from linscore.options.text import TextOptions
from linscore.pretraining.token_store import standard_library
from linscore.text.ahead import Ahead
from linscore.text.source import Text

LENGTH, ROWS, LAUNCHES = 512, 32, 1500  # tokens of a sequence, sequences and operations of a batch
SHORT = 2000  # characters of a short document
BATCHES = 40  # beside a GPU
SCORED = 16_384  # tokens
ROUNDS = 2
GPU, CPU = torch.device("cuda"), torch.device("cpu")

Batches = Iterable[dict[str, Tensor]]


@click.command()
@click.option("--rate", default=200_000, show_default=True, help="Tokens a second of the GPU.")
@click.option("--megabytes", default=50, show_default=True, help="Of text that is read.")
def main(rate: int, megabytes: int) -> None:
    """Read a text alone, beside a GPU of a stated rate, and in a score on this CPU."""
    torch.set_num_threads(1)
    loaded = load_pretrained(EMBEDDED, device="cpu")
    print(f"torch {torch.__version__}, one thread of {torch.get_num_threads()}")
    with tempfile.TemporaryDirectory() as folder:
        long, short = _written(Path(folder), megabytes * 1_000_000)
        for name, path in {"one document": long, f"documents of {SHORT} characters": short}.items():
            read = partial(_read, loaded, path)
            _alone(name, read)
            _beside(name, read, rate)
        _score(loaded, long)


def _written(folder: Path, size: int) -> tuple[Path, Path]:
    """The standard library, over again, as one document and as short ones."""
    library = "".join(standard_library())
    text = (library * (1 + size // len(library)))[:size]
    long, short = folder / "long.txt", folder / "short.jsonl"
    long.write_text(text)
    with short.open("w") as file:
        for at in range(0, size, SHORT):
            file.write(json.dumps({"text": text[at : at + SHORT]}) + "\n")
    return long, short


def _read(loaded: Pretrained, path: Path, device: torch.device = CPU, tokens: int | None = None) -> Batches:
    """Batches as large as those of a GPU, made when they are wanted or ahead."""
    options = TextOptions(text=str(path), seq_len=LENGTH, batch_size=ROWS, tokens=tokens)
    return Text(options).batches(loaded.tokenizer, loaded.context, device)


def _alone(name: str, read: Callable[[], Batches]) -> None:
    began, worked = time.perf_counter(), time.process_time()
    tokens = _tokens(read())
    seconds, work = time.perf_counter() - began, time.process_time() - worked
    print(
        f"{name}, alone: {tokens:,} tokens in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s ({work:.1f} s of CPU)"
    )


def _beside(name: str, read: Callable[..., Batches], rate: int) -> None:
    """Batches that are there already, made when they are wanted, and made ahead, in turns; the first one apart."""
    tokens = BATCHES * ROWS * LENGTH
    held = list(read(tokens=tokens))
    ways = {"held": lambda: held, "when wanted": partial(read, CPU, tokens), "ahead": partial(read, GPU, tokens)}
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, batches in ways.items():
            began = time.perf_counter()
            given = iter(batches())
            first = next(given)
            came = time.perf_counter()
            assert _tokens(_used(chain([first], given), rate)) == tokens
            spent[way].append((time.perf_counter() - came, came - began))
    for way, seconds in spent.items():
        rest, wait = map(min, zip(*seconds, strict=True))
        print(f"{name}, {way}: {tokens:,} tokens at {rate:,} a second in {rest:.2f} s, {wait:.2f} s after the start")


def _used(batches: Batches, rate: int) -> Iterator[dict[str, Tensor]]:
    """Takes Python, and then time, as a GPU of that rate does."""
    state = torch.zeros(1)
    for batch in batches:
        ready = time.perf_counter() + batch["input_ids"].numel() / rate
        for _ in range(LAUNCHES):
            state.add_(1.0)
        time.sleep(max(0.0, ready - time.perf_counter()))
        yield batch


def _score(loaded: Pretrained, path: Path) -> None:
    """The built-in decoder, its batches made when they are wanted, and ahead all the same."""
    spent: dict[str, list[float]] = {"when wanted": [], "ahead": []}
    digests = set()
    for _ in range(ROUNDS):
        for way, device in {"when wanted": CPU, "ahead": GPU}.items():
            batches = Ahead(device).read(iter(_read(loaded, path, tokens=SCORED)))
            began = time.perf_counter()
            digests.add(linscore.score(loaded.model, batches, spectra=False).tokens_digest)
            spent[way].append(time.perf_counter() - began)
    assert len(digests) == 1
    rates = (f"{way} {SCORED / min(seconds):,.0f} tokens/s" for way, seconds in spent.items())
    print(f"a score of the built-in decoder on this CPU: {', '.join(rates)}")


def _tokens(batches: Batches) -> int:
    return sum(batch["input_ids"].numel() for batch in batches)


if __name__ == "__main__":
    main()
