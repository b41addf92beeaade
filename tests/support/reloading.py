"""Loading a saved model by transformers alone, and what it is asked."""

from pathlib import Path

from transformers import AutoModelForCausalLM, PreTrainedModel

from linscore import find_decoder


def load_elsewhere(path: Path, **kwargs) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True, **kwargs)


def linear_blocks(model: PreTrainedModel) -> list[int]:
    return [index for index, block in enumerate(find_decoder(model).blocks) if "center" in dict(block.named_buffers())]
