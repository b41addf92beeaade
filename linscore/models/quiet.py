"""transformers, and accelerate below it, without their warnings and bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger

from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """Their warnings and bars kept off the terminal while a model loads or is saved."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    accelerate = getLogger("accelerate")
    level = accelerate.level
    logging.set_verbosity_error()
    accelerate.setLevel(ERROR)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        accelerate.setLevel(level)
        if bars:
            logging.enable_progress_bar()
