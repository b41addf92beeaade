"""The job of `linscore score`: from names and paths to a saved report."""

from __future__ import annotations

import re
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from linscore.corpus import batches, pack
from linscore.documents import read_dataset, read_documents
from linscore.errors import LinscoreError
from linscore.pretrained import EMBEDDED, EMBEDDED_TEXT, load_pretrained
from linscore.progress import ScoreProgress
from linscore.report import Report, prepare_folder
from linscore.score import score

DATASET_TOKENS = 1_000_000  # a streamed dataset may have no end
LONGEST = 2048  # tokens: longer contexts cost more and say little more about a block
BATCH_TOKENS = {"cpu": 4096, "cuda": 16384}
SAMPLE = 20_000  # characters whose tokens are counted to guess the rest


def run_score(
    model: str = EMBEDDED,
    *,
    text: str | None = None,
    dataset: str | None = None,
    tokens: int | None = None,
    seq_len: int | None = None,
    batch_size: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    folds: int = 2,
    skip_first: int = 0,
    skip_special: bool = False,
    precision: str = "fast",
    blocks: str | None = None,
    sub_blocks: bool = False,
    out: str | None = None,
) -> tuple[Report, tuple[Path, Path]]:
    """Score `model` on a text or dataset and save the result; the arguments are the options of `linscore score`.

    Returns:
        The report, and the paths of `report.json` and `moments.safetensors`.

    Raises:
        LinscoreError: for any input that cannot be used; what stood in `out` before stays as it was.
    """
    if text is not None and dataset is not None:
        raise LinscoreError("--text and --dataset are both given: give one")
    if batch_size is not None and batch_size < 1:
        raise LinscoreError(f"--batch-size is {batch_size}: give 1 or more")
    chosen = None if blocks is None else parse_blocks(blocks)
    folder = prepare_folder(out or f"scores/{Path(model).name}")
    documents = read_dataset(dataset) if dataset is not None else read_documents(text or EMBEDDED_TEXT)
    loaded = load_pretrained(model, dtype=dtype, device=device)
    seq_len = seq_len if seq_len is not None else min(loaded.context or LONGEST, LONGEST)
    tokens = DATASET_TOKENS if tokens is None and dataset is not None else tokens
    sequences = pack(documents, loaded.tokenizer, seq_len=seq_len, folds=folds, tokens=tokens)
    total = tokens if dataset is not None else expected_tokens(text or EMBEDDED_TEXT, loaded.tokenizer, tokens)
    with ScoreProgress(total) as progress:
        report = score(
            loaded.model,
            batches(sequences, batch_size or max(1, BATCH_TOKENS[loaded.model.device.type] // seq_len)),
            folds=folds,
            blocks=chosen,
            sub_blocks=sub_blocks,
            skip_first=skip_first,
            skip_tokens=loaded.tokenizer.all_special_ids if skip_special else (),
            precision=precision,
            name=loaded.name,
            text=dataset or text or "Python standard-library files that ship with linscore",
            progress=progress.advance,
        )
    return report, report.save(folder)


def parse_blocks(blocks: str) -> list[int]:
    """Read a list of blocks: "0-2,7" is [0, 1, 2, 7]."""
    chosen: list[int] = []
    for part in blocks.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise LinscoreError(f"--blocks {blocks!r} is no list of blocks: write it like 0-5,7")
        chosen += range(int(match[1]), int(match[2] or match[1]) + 1)
    return chosen


def expected_tokens(text: str | Path, tokenizer: PreTrainedTokenizerBase, tokens: int | None) -> int | None:
    """About how many tokens a local text has, for the time left: its size, and the rate of its first document."""
    if str(text) == "-":
        return tokens
    files = [path for path in Path(text).rglob("*") if path.is_file()] if Path(text).is_dir() else [Path(text)]
    first = next(iter(read_documents(text)), "")
    piece = (first if isinstance(first, str) else next(iter(first), ""))[:SAMPLE]
    rate = len(tokenizer.encode(piece, add_special_tokens=False)) / max(1, len(piece.encode()))
    found = int(sum(path.stat().st_size for path in files) * rate)
    return found if tokens is None else min(found, tokens)
