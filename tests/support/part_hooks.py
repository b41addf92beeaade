"""What a decoder computes with attention or MLP of some blocks overwritten by hooks that know nothing of stand-ins."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from linscore import find_decoder

# Where a block gives what its attention and its MLP add, read off the modelling code of transformers 5.24.
_USUAL = ("self_attn", "mlp")
_NORMED = ("post_attention_layernorm", "post_feedforward_layernorm")  # a norm has the last word
PATHS = {
    "gpt2": ("attn", "mlp"),
    "gptj": ("attn", "mlp"),
    "gpt_neo": ("attn", "mlp"),
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "mpt": ("attn", "ffn.down_proj"),
    "falcon": ("self_attention", "mlp"),
    "gpt_neox": ("attention", "mlp"),
    "opt": ("self_attn", "fc2"),
    "gemma2": _NORMED,
    "gemma3": _NORMED,
    "olmo2": _NORMED,
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "phi3", "stablelm", "smollm3"), _USUAL),
    **dict.fromkeys(("mixtral", "gpt_oss", "qwen3_moe"), _USUAL),
}
PARALLEL = ("gptj", "falcon", "gpt_neox", "phi")


def delta(fitted, x: Tensor) -> Tensor:
    """What a map adds, in float64; nothing where there is none."""
    x = x.double()
    return torch.zeros_like(x) if fitted is None else (x - fitted.mean_x) @ fitted.b + fitted.mean_delta


@contextmanager
def overwritten(model: nn.Module, family: str, maps: dict[str, object]) -> Iterator[None]:
    """For as long as the context lasts, parts such as "3.mlp" add what their maps say of the state that they read."""
    with ExitStack() as hooks:
        for key in {key.split(".")[0] for key in maps}:
            block, state = find_decoder(model).blocks[int(key)], {}

            def enter(_block, args, kwargs, state=state):
                state["x"] = state["read"] = (args[0] if args else kwargs["hidden_states"]).clone()

            def attention(_module, _args, output, state=state, key=key):
                out = output[0] if isinstance(output, tuple) else output
                if f"{key}.attention" in maps:
                    out = delta(maps[f"{key}.attention"], state["x"]).to(out.dtype)
                if family not in PARALLEL:
                    state["read"] = state["x"] + out
                return (out, *output[1:]) if isinstance(output, tuple) else out

            def mlp(_module, _args, output, state=state, key=key):
                out = output[0] if isinstance(output, tuple) else output
                if f"{key}.mlp" in maps:
                    out = delta(maps[f"{key}.mlp"], state["read"]).to(out.dtype).reshape(out.shape)
                return (out, *output[1:]) if isinstance(output, tuple) else out

            hooks.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
            for path, hook in zip(PATHS[family], (attention, mlp), strict=True):
                hooks.callback(block.get_submodule(path).register_forward_hook(hook).remove)
        yield
