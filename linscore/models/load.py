"""Load a decoder and its tokenizer by Hub name or folder, or one of those that ship with linscore."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from linscore.decoder.find import Decoder, context_of, find_decoder
from linscore.embedded.shipped import EMBEDDED, SHIPPED
from linscore.errors import LinscoreError, one_of
from linscore.machine.device import choose_device
from linscore.machine.extras import need
from linscore.models.linear_block import DamagedError
from linscore.models.loaders import dtype_of, load_in_pieces, load_whole, loader_of
from linscore.models.names import check_name
from linscore.models.pretrained import Checkpoint
from linscore.models.quiet import quiet

if TYPE_CHECKING:  # it needs accelerate, which only models in pieces need
    from linscore.models.block_weights import BlockWeights

HEAD = AutoModelForSequenceClassification
LONGEST_REASON = 200  # characters of what transformers says
PLACEMENTS = ("whole", "map", "stream")


class Pretrained(NamedTuple):
    """A decoder with its tokenizer."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context: int  # longest sequence the model was made for; 0 where it does not say
    stored: torch.dtype | None  # of the checkpoint, whatever the model was loaded in; None where it does not say
    weights: BlockWeights | None = None  # those of the blocks, where the model came without them

    @property
    def decoder(self) -> Decoder:
        """Where the model keeps its blocks; found anew at each call."""
        return find_decoder(self.model)

    def decode(self, ids: list[int]) -> str:
        """The text of token ids as it stood, no space tidied away."""
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def load_pretrained(
    name: str = EMBEDDED,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    placement: str = "whole",
    encoder: bool = False,
) -> Pretrained:
    """Load `name` (a Hub name, a folder, or one of `SHIPPED`, such as "embedded") for scoring.

    `dtype` "auto" is the checkpoint's own, but float32 for float16 on a CPU, which computes it slowly; `device` "auto"
    is the GPU where there is one; `revision` is a branch, tag or commit of a Hub name; `trust_remote_code` lets code
    that the checkpoint brings run. `placement` "whole" has all of it on the device; "map" spreads it over all devices,
    memory and disk, as accelerate does; "stream" leaves the weights of the blocks on disk: see `Pretrained.weights`.
    An `encoder` need be no language model, and comes without a head.

    Raises:
        LinscoreError: when there is no such model, device or dtype, it is not a causal language model, it needs code of
            its own that may not run, or accelerate is missing for a placement that needs it.

    Examples:
        >>> loaded = linscore.load_pretrained("embedded")
        >>> type(loaded.model).__name__, len(loaded.tokenizer)
        ('LlamaForCausalLM', 2048)
    """
    one_of("placement", placement, PLACEMENTS)
    where, weights = choose_device(device), None
    with _loading(name):
        checkpoint = _checkpoint(name, trust_remote_code, revision)
        if placement == "whole":
            config, stored, model = load_whole(checkpoint, dtype, where, encoder)
            model = model.to(where)  # type: ignore[arg-type]
        else:
            need("large", f"`placement={placement}`", "accelerate")
            config, stored, model, weights = load_in_pieces(checkpoint, dtype, where, placement, encoder)
        tokenizer = checkpoint.tokenizer(config)
    return Pretrained(name, model, tokenizer, context_of(config), stored, weights)


def load_with_head(name: str, outputs: int, *, device: str = "auto", trust_remote_code: bool = False) -> Pretrained:
    """`name` with a new linear head of so many outputs on the state of each text's last token, for fine-tuning.

    Weights are float32 and the head is random, from torch's generator. Texts are padded with the tokenizer's padding
    token, or its EOS where it has none.

    Raises:
        LinscoreError: as `load_pretrained`, or where transformers has no such head for the family.
    """
    where = choose_device(device)
    with _loading(name):
        checkpoint = _checkpoint(name, trust_remote_code)
        config = checkpoint.config()
        own = getattr(config, "auto_map", None) or {}
        if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and HEAD.__name__ not in own:
            raise LinscoreError(f"transformers has no head for {config.model_type} that classifies texts")
        tokenizer = checkpoint.tokenizer(config)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        config.num_labels, config.pad_token_id = outputs, pad or 0
        model = checkpoint.model(HEAD, config, torch.float32)
    return Pretrained(name, model.to(where), tokenizer, context_of(config), config.get_text_config().dtype)


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hub name, a folder, or "embedded".

    Raises:
        LinscoreError: when there is none, or it needs code of its own that may not run.
    """
    with _loading(name, "tokenizer"):
        return _checkpoint(name, trust_remote_code).tokenizer()


def read_context(name: str, *, trust_remote_code: bool = False) -> int:
    """The longest sequence that a model was made for, 0 where it does not say, from its configuration alone.

    Raises:
        LinscoreError: when there is no such model, or it needs code of its own that may not run.
    """
    with _loading(name):
        return context_of(_checkpoint(name, trust_remote_code).config())


def load_on_paper(
    name: str,
    *,
    dtype: str = "auto",
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
    encoder: bool = False,
) -> Decoder:
    """The decoder of `name` without memory for its weights, from its configuration alone (see `on_paper`).

    `dtype` is as in `load_pretrained`, where the configuration says it; else float32. `device` need not be there.

    Raises:
        LinscoreError: when there is no such model, dtype, or it needs code of its own that may not run.
    """
    with _loading(name):
        checkpoint = _checkpoint(name, trust_remote_code)
        config = checkpoint.config()
        wanted = dtype_of(dtype, config, torch.device(device))
        if wanted != "auto":
            config.dtype = wanted
        return find_decoder(checkpoint.empty(loader_of(config, encoder), config))


def weights_on_disk(name: str) -> int | None:
    """Bytes of the weights in the folder that `name` is; None where it is none, or holds none."""
    folder = SHIPPED.get(name, name)
    if not os.path.isdir(folder):  # of Path, some names are errors
        return None
    return sum(file.stat().st_size for kind in ("*.safetensors", "*.bin") for file in Path(folder).glob(kind)) or None


def load(
    path: str | Path, dtype: str = "auto", device: str = "auto", *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Load a saved model, with linear blocks or without, in evaluation mode.

    No code from the folder is run unless you say so: linear blocks are linscore's own.

    Args:
        path: a folder that `save_pretrained` or a command of linscore has written, a Hub name, or "embedded".
        dtype: "float32", "bfloat16" or "float16"; "auto" is the checkpoint's own, but float32 for float16 on a CPU,
            which computes it slowly. The means of linear blocks stay float32.
        device: such as "cpu" or "cuda:1"; "auto" is the GPU where there is one.
        trust_remote_code: let code that the checkpoint brings run; a line on standard error then says so.

    Raises:
        LinscoreError: when there is no such model, device or dtype, its weights do not fit its configuration, or it
            needs code of its own that may not run.

    Examples:
        >>> model.save_pretrained("plain")
        >>> type(linscore.load("plain", dtype="bfloat16")).__name__
        'LlamaForCausalLM'
    """
    where = choose_device(device)
    with _loading(str(path)):
        checkpoint = _checkpoint(str(path), trust_remote_code)
        model = load_whole(checkpoint, dtype, where)[-1]
    return model.to(where)  # type: ignore[arg-type]


def _checkpoint(name: str, trust_remote_code: bool, revision: str | None = None) -> Checkpoint:
    return Checkpoint(_source(name), revision, trust_remote_code)


def _source(name: str) -> str:
    folder = SHIPPED.get(name)
    if folder is not None and not folder.is_dir():
        raise LinscoreError(
            f"{name} comes with linscore's repository, not with an installed package: install from a checkout by "
            "pip install --editable, or give its folder there, linscore/embedded/cosine"
        )
    if folder is None:
        check_name(name)
    return str(folder or name)


@contextmanager
def _loading(name: str, what: str = "model") -> Iterator[None]:
    """Quiet, and what goes wrong as a LinscoreError."""
    try:
        with quiet():
            yield
    except (LinscoreError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a damaged file makes transformers raise whatever its value leads to
        raise LinscoreError(_why(name, error, what)) from error


def _why(name: str, error: Exception, what: str) -> str:
    """One line for the many ways in which loading fails."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, DamagedError):
        return f"{first}; linearize the model again"
    if isinstance(error, ImportError):
        return f"{name} needs a package that is not here ({first[:LONGEST_REASON]}): install that"
    if "Unrecognized configuration class" in first:
        return (
            f"{name} is not a decoder: transformers has no causal language model for it; give a decoder-only model "
            "(linscore score takes encoders by --encoder)"
        )
    if os.path.isdir(name):  # of Path, some names are errors
        held = "causal language model with its tokenizer" if what == "model" else what
        return f"the folder {name} holds no {held} ({first[:LONGEST_REASON]})"
    return f"no {what} {name!r}: neither a folder here nor to be had from the Hub (check name, access and network)"
