"""Tiny models of families whose blocks differ by their index."""

import torch
import transformers
from tiny_models import DEPTH, VOCABULARY, WIDTH
from transformers import AutoModelForCausalLM, PreTrainedModel


def llama4(**changes) -> PreTrainedModel:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 4, "num_key_value_heads": 2}
    experts = {"intermediate_size": 32, "intermediate_size_mlp": 48, "num_local_experts": 2, "head_dim": 8}
    config = transformers.Llama4TextConfig(vocab_size=VOCABULARY, pad_token_id=0, **{**sizes, **experts, **changes})
    return random_model(config)


def qwen3_next() -> PreTrainedModel:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 4, "num_key_value_heads": 2}
    linear = {f"linear_num_{kind}_heads": 2 for kind in ("key", "value")}
    linear |= {f"linear_{kind}_head_dim": 8 for kind in ("key", "value")}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    kinds = ["linear_attention", "full_attention", "linear_attention"]
    config = transformers.Qwen3NextConfig(
        vocab_size=VOCABULARY, layer_types=kinds, shared_expert_intermediate_size=16, **sizes, **linear, **experts
    )
    return random_model(config)


def random_model(config: transformers.PreTrainedConfig) -> PreTrainedModel:
    config.initializer_range = 0.2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()
