"""A tiny random model of every class that transformers maps to a causal language model.

No family is written out: a configuration has its default values, but for those whose names say that they are sizes.
What that does not build has its few other values in `OTHERWISE`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY, WIDTH, DEPTH, HEADS = 96, 32, 4, 4
LENGTHS = (16, 13, 9, 16, 11, 14, 16, 10)

SIZES: dict[str, Any] = {
    **dict.fromkeys(["vocab_size"], VOCABULARY),
    **dict.fromkeys(["hidden_size", "d_model", "n_embd", "embed_dim", "dim", "emb_dim", "embedding_size"], WIDTH),
    **dict.fromkeys(["num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers", "num_blocks"], DEPTH),
    **dict.fromkeys(["num_decoder_layers", "text_num_hidden_layers"], DEPTH),
    **dict.fromkeys(["encoder_layers", "num_encoder_layers"], 2),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"], HEADS),
    **dict.fromkeys(["num_decoder_attention_heads", "num_encoder_attention_heads", "encoder_attention_heads"], HEADS),
    **dict.fromkeys(["num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"], 2),
    **dict.fromkeys(["swa_num_attention_heads"], HEADS),
    **dict.fromkeys(["head_dim", "attention_head_size", "d_kv", "v_head_dim", "qk_nope_head_dim", "d_head"], 8),
    **dict.fromkeys(["global_head_dim", "swa_head_dim", "swa_v_head_dim", "index_head_dim", "kv_channels"], 8),
    **dict.fromkeys(["qk_rope_head_dim", "rotary_dim"], 4),
    **dict.fromkeys(["kv_lora_rank", "q_lora_rank"], 8),
    **dict.fromkeys(["intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner", "d_inner"], 48),
    **dict.fromkeys(["feed_forward_size", "dff", "d_ff", "dim_ff", "ffn_hidden_size"], 48),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size"], 16),
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "num_experts_per_token", "moe_k", "top_k_experts"], 2),
    **dict.fromkeys(["n_group", "topk_group"], 1),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "max_seq_len", "context_length"], 64),
    **dict.fromkeys(["state_size", "mamba_d_state", "ssm_state_size"], 8),
    **dict.fromkeys(["linear_num_heads"], HEADS),
    **dict.fromkeys(["linear_num_key_heads", "linear_num_value_heads"], 2),
    **dict.fromkeys(["linear_head_dim", "linear_key_head_dim", "linear_value_head_dim"], 8),
    **dict.fromkeys(["mamba_num_heads", "mamba_n_heads", "n_mamba_heads", "mamba_head_dim", "mamba_d_head"], 8),
    **dict.fromkeys(["chunk_size", "mamba_chunk_size"], 8),
    **dict.fromkeys(["mamba_d_ssm"], 64),
    **dict.fromkeys(["unpadded_vocab_size"], VOCABULARY),
    **dict.fromkeys(["image_size"], 8),
    **dict.fromkeys(["patch_size"], 4),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_LATENT = {"num_key_value_heads": HEADS}  # latent attention has as many of either
_PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY}
_INDEXER = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8}
_INDEXER |= {"indexer_budget": 16, "indexer_compress_ratio": 4}
_HALF = ["full_attention", "sliding_attention"] * (DEPTH // 2)

# What sizes alone do not build, or build without one of the kinds of blocks that the family has.
OTHERWISE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ["axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "youtu"], _LATENT
    ),
    **dict.fromkeys(["dots3_note", "dots3_note_text"], _LATENT),
    "bailing_hybrid": {**_LATENT, "layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "blt": {part: {"hidden_size_global": WIDTH} for part in ("encoder_config", "decoder_config")},
    "cohere_compass_text": {
        "layer_types": _HALF,
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in _HALF},
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "dots1": {"n_shared_experts": 1},
    "fuyu": {"text_config": {"model_type": "persimmon"}},
    "gemma3": {"vision_config": {"model_type": "siglip_vision_model"}},
    "gemma3n_text": {**_PER_LAYER, "num_kv_shared_layers": 2},
    "gemma4": {"text_config": _PER_LAYER},
    "gemma4_assistant": {"text_config": {"model_type": "gemma4_text", **dict.fromkeys(_PER_LAYER, 0)}},
    "gemma4_text": _PER_LAYER,
    "gemma4_unified": {"text_config": _PER_LAYER},
    "gemma4_unified_assistant": {"text_config": {"model_type": "gemma4_unified_text"}},
    "gemma4_unified_text": _PER_LAYER,
    "got_ocr2": {"text_config": {"model_type": "qwen2"}},
    "gpt_neo": {"attention_types": [[["global", "local"], DEPTH // 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * (DEPTH // 2)},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 8, "use_mamba_kernels": False},
    "kimi_linear": {**_LATENT, "layer_types": ["linear_attention", "full_attention"] * (DEPTH // 2)},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * (DEPTH // 2)},
    "longcat_flash": {**_LATENT, "head_dim": 4, "expert_ffn_hidden_size": 16, "zero_expert_num": 2, "moe_topk": 2},
    "mamba2": {"num_heads": 8, "n_groups": 2, "chunk_size": 8},
    "minicpm3": _LATENT,
    "moss_transcribe_diarize": {"text_config": {"model_type": "qwen3"}},
    **dict.fromkeys(["qwen4_exp", "qwen4_exp_text"], _INDEXER),
    "reformer": {
        "axial_pos_embds_dim": (16, 16),
        "axial_pos_shape": (8, 8),
        "attn_layers": ("local", "lsh") * (DEPTH // 2),
        "hash_seed": 0,
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "n_mamba_heads": 2,
        "use_mamba_kernels": False,
    },
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "use_mamba_kernels": False,
    },
    "zaya": {"num_experts_per_tok": 1},
}


def classes() -> list[tuple[str, str]]:
    """Model type, as the class's own configuration says it, and name of each class, in order."""
    names = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()), key=str.lower)
    return [(getattr(transformers, name).config_class.model_type, name) for name in names]


def tiny(model_type: str, name: str) -> PreTrainedModel:
    """A random model, the same weights at every call, whose blocks add something and whose gains are not all 1."""
    kind: Any = getattr(transformers, name)
    config = tiny_config(kind.config_class, OTHERWISE.get(model_type, {}))
    for holder in (config, config.get_text_config()):
        for field, value in {"initializer_range": 0.2, "init_std": 0.2, "is_decoder": True}.items():
            if hasattr(holder, field):
                setattr(holder, field, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def tiny_config(kind: type[PreTrainedConfig], changes: dict[str, Any]) -> PreTrainedConfig:
    """The configuration with small sizes; `changes` has the last word, by field, in a dict for a part of it."""
    fields = {field.name for field in dataclasses.fields(kind)}
    values = {field: value for field, value in SIZES.items() if field in fields} | changes
    for part, of_part in kind.sub_configs.items():
        of_changes = dict(changes.get(part, {}))
        if "model_type" in of_changes:
            of_part = CONFIG_MAPPING[of_changes.pop("model_type")]
        if part in fields and of_part is not AutoConfig:
            values[part] = tiny_config(of_part, of_changes)
    return kind(**values)


def rows_of_text() -> list[Tensor]:
    """Token ids `[1, n]` of several lengths."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCABULARY - 8, (1, n), generator=generator) for n in LENGTHS]
