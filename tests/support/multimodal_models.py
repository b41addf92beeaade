"""Tiny random models of text and images together, whose text decoder is what is scored."""

from collections.abc import Callable

import torch
import transformers
from tiny_models import DEPTH, VOCABULARY, WIDTH
from transformers import PreTrainedModel

_SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
_TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_TOWER |= {"image_size": 8, "patch_size": 4}
_QWEN_TOWER = {"depth": 2, "patch_size": 4, "num_heads": 2}


def _llava(vocabulary: int) -> PreTrainedModel:
    text = {"model_type": "llama", "vocab_size": vocabulary, **_SIZES}
    tower = {"model_type": "clip_vision_model", **_TOWER}
    config = transformers.LlavaConfig(text_config=text, vision_config=tower, image_token_id=vocabulary - 1)
    return transformers.LlavaForConditionalGeneration(config)


def _qwen2_vl(vocabulary: int) -> PreTrainedModel:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    text = {"rope_parameters": rope, "vocab_size": vocabulary, **_SIZES}
    tower = {"embed_dim": 16, "hidden_size": WIDTH, **_QWEN_TOWER}
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=tower, **_markers(vocabulary))
    return transformers.Qwen2VLForConditionalGeneration(config)


def _qwen3_5(vocabulary: int) -> PreTrainedModel:
    linear = {f"linear_num_{kind}_heads": 2 for kind in ("key", "value")}
    linear |= {f"linear_{kind}_head_dim": 8 for kind in ("key", "value")}
    kinds = {"layer_types": ["linear_attention", "full_attention", "full_attention"]}
    text = {"head_dim": 8, "vocab_size": vocabulary, **_SIZES, **linear, **kinds}
    tower = {"hidden_size": 16, "intermediate_size": 16, "out_hidden_size": WIDTH, **_QWEN_TOWER}
    config = transformers.Qwen3_5Config(text_config=text, vision_config=tower, **_markers(vocabulary))
    return transformers.Qwen3_5ForConditionalGeneration(config)


def _gemma3(vocabulary: int) -> PreTrainedModel:
    text = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4, "vocab_size": vocabulary, **_SIZES}
    tower = {"model_type": "siglip_vision_model", **_TOWER}
    config = transformers.Gemma3Config(
        text_config=text, vision_config=tower, mm_tokens_per_image=4, image_token_index=vocabulary - 1
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def _markers(vocabulary: int) -> dict[str, int]:
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {name: vocabulary - 1 - place for place, name in enumerate(names)}


_FAMILIES: dict[str, Callable[[int], PreTrainedModel]] = {
    "llava": _llava,
    "qwen2_vl": _qwen2_vl,
    "qwen3_5": _qwen3_5,
    "gemma3": _gemma3,
}
MULTIMODAL = list(_FAMILIES)


def multimodal(family: str, vocabulary: int = VOCABULARY) -> PreTrainedModel:
    """A model of text and images of one of the `MULTIMODAL` families; its last four token ids mark images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _FAMILIES[family](vocabulary).eval()
