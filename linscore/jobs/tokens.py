"""The job of `linscore tokens`: which tokens a block treats as no affine map does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from linscore.embedded.shipped import EMBEDDED
from linscore.files.lock import alone_in
from linscore.jobs.score_settings import Selection
from linscore.machine.processes import check_single
from linscore.models.load import Pretrained, load_pretrained
from linscore.options.place import PlaceOptions
from linscore.options.score import ScoreOptions, SelectOptions
from linscore.options.text import TextOptions
from linscore.progress import watched
from linscore.text.source import Text
from linscore.token_errors.collect import token_errors
from linscore.token_errors.result import TokenErrors


def run_tokens(
    model: str = EMBEDDED,
    *,
    text: TextOptions | None = None,
    scoring: ScoreOptions | None = None,
    selected: SelectOptions | None = None,
    place: PlaceOptions | None = None,
    out: str | None = None,
) -> tuple[TokenErrors, Path | None]:
    """Measure every token of a text in every block, in two passes; the result goes to `out`, where it is given.

    Raises:
        LinscoreError: under torchrun, or for any input that cannot be used, such as a text that can be read only once.
    """
    check_single("tokens", "start it without torchrun")
    read, place, chosen = Text(text or TextOptions()), place or PlaceOptions(), Selection(selected or SelectOptions())
    read.source.check()
    read.source.check_read_again(", which is read twice")
    loaded, scoring = load_pretrained(model, **asdict(place)), scoring or ScoreOptions()
    special = loaded.tokenizer.all_special_ids if chosen.skip_special else ()
    options = chosen.among(len(loaded.decoder.blocks), replace(scoring, skip_tokens=special))
    batches = partial(_batches, loaded, read, options.folds)
    found = token_errors(loaded.decoder, batches, loaded.decode, options, name=loaded.name, text=str(read))
    if out is None:
        return found, None
    with alone_in(out) as folder:
        return found, found.save(folder)


def _batches(loaded: Pretrained, text: Text, folds: int) -> Iterator[dict[str, Tensor]]:
    """The text from its start, under a bar of its tokens."""
    batches = text.batches(loaded.tokenizer, loaded.context, loaded.model.device, folds=folds)
    expected = text.expected_tokens(loaded.tokenizer)
    return watched(batches, expected, "reading", lambda batch: batch["input_ids"].numel())
