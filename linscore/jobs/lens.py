"""The job of `linscore lens`: states of a sample of tokens at every depth."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from linscore.embedded.shipped import EMBEDDED
from linscore.errors import at_least
from linscore.files.lock import alone_in
from linscore.lens.look import TOKENS, look
from linscore.lens.result import Lens
from linscore.machine.processes import check_single
from linscore.models.load import load_pretrained
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.text.source import Text


def run_lens(
    model: str = EMBEDDED,
    *,
    text: TextOptions | None = None,
    place: PlaceOptions | None = None,
    out: str | None = None,
) -> tuple[Lens, Path | None]:
    """Look at the states of the first `text.tokens` tokens, 2,048 by default; the result goes to `out`, where given.

    Raises:
        LinscoreError: under torchrun, or for any input that cannot be used.
    """
    check_single("lens", "start it without torchrun")
    read, place = Text(text or TextOptions()), place or PlaceOptions()
    at_least("tokens", read.options.tokens, 4)
    read.source.check()
    loaded = load_pretrained(model, **asdict(place))
    tokens = read.options.tokens or TOKENS
    batches = read.batches(loaded.tokenizer, loaded.context, loaded.model.device, folds=1)
    about = {"name": loaded.name, "text": str(read)}
    found = look(loaded.decoder, batches, loaded.decode, tokens=tokens, **about)
    if out is None:
        return found, None
    with alone_in(out) as folder:
        return found, found.save(folder)
