"""Tiny random decoders, one per Hugging Face family, for tests: seeded, float32, on the CPU, nothing downloaded."""

from functools import cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY, WIDTH, DEPTH = 64, 32, 3

_LLAMA: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
_HEAD = {"head_dim": 8}
_EXPERTS = {"num_experts_per_tok": 2, "router_aux_loss_coef": 0.0}
_GPT2 = {"n_embd": WIDTH, "n_layer": DEPTH, "n_head": 4, "n_positions": 64}
_OPT = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "ffn_dim": 48,
    "max_position_embeddings": 64,
}
_MAMBA = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "state_size": 8}

# family: (model_type, what makes its configuration tiny)
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", _GPT2),
    "bloom": ("bloom", {"hidden_size": WIDTH, "n_layer": DEPTH, "n_head": 4}),
    "gptj": ("gptj", {**_GPT2, "rotary_dim": 4}),
    "gpt_neo": (
        "gpt_neo",
        {
            "hidden_size": WIDTH,
            "num_layers": DEPTH,
            "num_heads": 4,
            "attention_types": [[["global", "local", "global"], 1]],
            "window_size": 4,
            "max_position_embeddings": 64,
        },
    ),
    "falcon": ("falcon", {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 4}),
    "mpt": ("mpt", {"d_model": WIDTH, "n_layers": DEPTH, "n_heads": 4, "max_seq_len": 64, "expansion_ratio": 2}),
    "opt": ("opt", {**_OPT, "word_embed_proj_dim": WIDTH}),
    "opt_350m": ("opt", {**_OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "gpt_neox": ("gpt_neox", {k: v for k, v in _LLAMA.items() if k != "num_key_value_heads"}),
    "llama": ("llama", _LLAMA),
    "mistral": ("mistral", {**_LLAMA, **_HEAD, "sliding_window": 4}),
    "qwen2": ("qwen2", _LLAMA),
    "qwen3": ("qwen3", {**_LLAMA, **_HEAD}),
    "gemma": ("gemma", {**_LLAMA, **_HEAD}),
    "gemma2": ("gemma2", {**_LLAMA, **_HEAD, "query_pre_attn_scalar": 8, "sliding_window": 4}),
    "gemma3": ("gemma3_text", {**_LLAMA, **_HEAD, "query_pre_attn_scalar": 8, "sliding_window": 4}),
    "phi": ("phi", _LLAMA),
    "phi3": ("phi3", _LLAMA),
    "stablelm": ("stablelm", _LLAMA),
    "mixtral": ("mixtral", {**_LLAMA, **_EXPERTS, "num_local_experts": 4}),
    "olmo2": ("olmo2", _LLAMA),
    "smollm3": ("smollm3", _LLAMA),
    "gpt_oss": ("gpt_oss", {**_LLAMA, **_HEAD, **_EXPERTS, "num_local_experts": 4, "sliding_window": 4}),
    "qwen3_moe": ("qwen3_moe", {**_LLAMA, **_HEAD, **_EXPERTS, "num_experts": 4, "moe_intermediate_size": 16}),
    "mamba": ("mamba", _MAMBA),
    "mamba2": ("mamba2", {**_MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8}),
}
FAMILIES = list(_FAMILIES)
# Where the MLP's contribution leaves its last linear layer, read off the modelling code of transformers 5.23; families
# that are not here have a norm behind it, or a mixture of experts.
PROJECTIONS = {
    "gpt2": "mlp.c_proj",
    "bloom": "mlp.dense_4h_to_h",
    "gptj": "mlp.fc_out",
    "gpt_neo": "mlp.c_proj",
    "falcon": "mlp.dense_4h_to_h",
    "mpt": "ffn.down_proj",
    "opt": "fc2",
    "gpt_neox": "mlp.dense_4h_to_h",
    "llama": "mlp.down_proj",
    "mistral": "mlp.down_proj",
    "qwen2": "mlp.down_proj",
    "qwen3": "mlp.down_proj",
    "gemma": "mlp.down_proj",
    "phi": "mlp.fc2",
    "phi3": "mlp.down_proj",
    "stablelm": "mlp.down_proj",
    "smollm3": "mlp.down_proj",
    "mamba": "mixer.out_proj",
    "mamba2": "mixer.out_proj",
}


def tiny(family: str, **changes: Any) -> PreTrainedModel:
    """Builds a random decoder of `family` with its language-model head, in evaluation mode.

    Args:
        family: one of `FAMILIES`.
        changes: configuration values that differ from the family's tiny ones.

    Returns:
        A fresh model, the same weights at every call: 3 blocks of width 32 over 64 token ids.
    """
    model_type, sizes = _FAMILIES[family]
    tokens = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(model_type, **{**tokens, **sizes, **changes})
    # The usual 0.02 leaves the blocks of so narrow a model next to nothing to add to the residual stream.
    for name in ("initializer_range", "init_std"):
        if hasattr(config, name):
            setattr(config, name, 0.2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        _perturb_vectors(model)
    return model.eval()


@cache
def shared(family: str) -> PreTrainedModel:
    """The model that `tiny(family)` gives, one and the same at every call: for tests that leave it as it is."""
    return tiny(family)


def enable_checkpointing(model: PreTrainedModel, reentrant: bool) -> None:
    """Gradient checkpointing, by the name that this version of transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})


@torch.no_grad()
def _perturb_vectors(model: PreTrainedModel) -> None:
    """Moves gains and biases off 1 and 0: a test could not see a norm or a bias that was left out."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
