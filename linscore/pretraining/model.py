"""A new decoder out of the keys of a recipe."""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from linscore.errors import LinscoreError, reason
from linscore.pretraining.recipe import Recipe

__all__ = ["new_model"]


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A decoder with random float32 weights that follow from the recipe's seed.

    Raises:
        LinscoreError: for a key or a value that transformers does not know, or a vocabulary that the tokenizer does not
            fit into.
    """
    given = dict(recipe.model)
    family = given.pop("model_type", "mistral")
    if family not in CONFIG_MAPPING:
        raise LinscoreError(f"model_type is {family!r}: transformers knows no such family")
    kind = CONFIG_MAPPING[family]
    plain = kind()
    unknown = next((key for key in given if not hasattr(plain, key)), None)
    if unknown is not None:
        raise LinscoreError(f"model: {unknown} is no key of {kind.__name__}: check its spelling")
    follow = {"vocab_size": len(tokenizer), "max_position_embeddings": recipe.seq_len, "pad_token_id": None}
    follow |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    # Sequences are as long as the context: a window would change nothing but the speed.
    follow |= {"sliding_window": None, "num_key_value_heads": given.get("num_attention_heads")}
    values: dict[str, Any] = {key: value for key, value in follow.items() if hasattr(plain, key)} | given
    if values["vocab_size"] < len(tokenizer):
        raise LinscoreError(f"vocab_size is {values['vocab_size']}, the tokenizer has {len(tokenizer)}: give as many")
    set_seed(recipe.seed)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(kind(**values), trust_remote_code=False).float()
        with torch.no_grad():  # some sizes fit together only in appearance
            model.eval()(input_ids=torch.zeros(1, 2, dtype=torch.long))
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError, StrictDataclassError) as error:
        raise LinscoreError(f"no decoder can be made of model ({reason(error)}): mend its sizes") from error
    return model
