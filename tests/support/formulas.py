"""The penalties of the residual stream as they are written in the paper, op by op."""

from itertools import pairwise

import torch
from torch.nn.functional import cosine_similarity

RIDGE = 1e-3
BLOCKS = {
    "llama": "model.layers",
    "gpt2": "transformer.h",
    "falcon": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "mpt": "transformer.blocks",
    "opt": "model.decoder.layers",
}


def states(model, family, **inputs):
    """The model's output, and h_0 … h_L: transformers' own records, but for the last, which it norms."""
    last = []
    handle = model.get_submodule(BLOCKS[family])[-1].register_forward_hook(lambda _m, _a, out: last.append(out))
    out = model(**inputs, output_hidden_states=True)
    handle.remove()
    return out, [*out.hidden_states[:-1], last[0] if isinstance(last[0], torch.Tensor) else last[0][0]]


def ridge_score(x, y):
    """1 − RSS_α/t by the normal equations; x, y `[n, d]`."""
    delta = y - x
    x, delta = x - x.mean(0), delta - delta.mean(0)
    gram = x.T @ x
    alpha = RIDGE * gram.trace() / len(gram)
    b = torch.linalg.solve(gram + alpha * torch.eye(len(gram), dtype=x.dtype), x.T @ delta)
    return 1 - ((delta - x @ b).pow(2).sum() + alpha * b.pow(2).sum()) / delta.pow(2).sum()


def formula(hidden, real, cosine=0.0, mse=0.0, linearity=0.0):
    pairs = [(x[real], y[real]) for x, y in pairwise(hidden)]
    total = sum(cosine * (1 - cosine_similarity(x, y, dim=-1)).mean() for x, y in pairs)
    total = total + sum(mse * (y - x).pow(2).sum(-1).mean() for x, y in pairs)
    return total + (sum(linearity * (1 - ridge_score(x, y)) for x, y in pairs) if linearity else 0)
