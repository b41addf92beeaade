"""Load a decoder and its tokenizer by Hub name or folder, or the one that ships with linscore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from linscore.errors import LinscoreError

EMBEDDED = "embedded"
EMBEDDED_MODEL = Path(__file__).with_name("embedded") / "model"
EMBEDDED_TEXT = Path(__file__).with_name("embedded") / "heldout"
DTYPES = ("auto", "float32", "bfloat16", "float16")


class Pretrained(NamedTuple):
    """A decoder with its tokenizer."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context: int  # longest sequence the model was made for; 0 where it does not say
    stored: torch.dtype | None  # of the checkpoint, whatever the model was loaded in; None where it does not say


def load_pretrained(name: str = EMBEDDED, *, dtype: str = "auto", device: str = "auto") -> Pretrained:
    """Load `name` (a Hub name, a folder, or "embedded") for scoring.

    `dtype` "auto" is the checkpoint's own, but float32 for float16 on a CPU, which computes it slowly; `device` "auto"
    is the GPU where there is one.

    Raises:
        LinscoreError: when there is no such model, device or dtype, or it is not a causal language model.
    """
    where = choose_device(device)
    source = str(EMBEDDED_MODEL) if name == EMBEDDED else name
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source)
            stored = config.get_text_config().dtype
            model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=_dtype(dtype, config, where))
            tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise LinscoreError(_why(name, error)) from error
    context = getattr(config.get_text_config(), "max_position_embeddings", 0) or 0
    model.to(where)  # type: ignore[arg-type]
    return Pretrained(name, model.eval(), tokenizer, context, stored)


@contextmanager
def quiet() -> Iterator[None]:
    """Transformers' warnings and bars kept off the terminal while a model loads or is saved."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def choose_device(device: str) -> torch.device:
    """The device called `device`, if it is there."""
    try:
        where = (
            torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
        )
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise LinscoreError(f"device {device!r} is not there: run `linscore doctor`, or give --device cpu") from error
    return where


def _dtype(dtype: str, config: object, device: torch.device) -> torch.dtype | str:
    if dtype not in DTYPES:
        raise LinscoreError(f"unknown dtype {dtype!r}: choose {', '.join(DTYPES)}")
    if dtype == "auto":
        stored = getattr(config, "dtype", None)
        return torch.float32 if stored is torch.float16 and device.type == "cpu" else "auto"
    return getattr(torch, dtype)


def _why(name: str, error: Exception) -> str:
    """One line for the many ways in which loading fails."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(name).is_dir():
        return f"the folder {name} holds no causal language model with its tokenizer ({first})"
    if "Unrecognized configuration class" in first:
        return f"{name} is not a decoder: transformers has no causal language model for it; give a decoder-only model"
    return f"no model {name!r}: neither a folder here nor to be had from the Hub (check name, access and network)"
