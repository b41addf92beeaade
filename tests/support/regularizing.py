"""A regularized step, and the same without the code under test."""

import pytest
import torch
from formulas import formula, states
from tiny_models import VOCABULARY
from torch import nn

WEIGHTS = {"cosine": 0.3, "mse": 0.01, "linearity": 0.7}
ROWS, LENGTH = 8, 20  # 4·d real tokens at least, with padding


def tokens(seed=0, rows=ROWS, length=LENGTH):
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def padded(side="right"):
    mask = torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask[1, 15:] = mask[3, 9:] = 0
    return mask if side == "right" else mask.flip(1)


class Toy(nn.Module):
    """No transformers: small enough to be compiled in a test."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(2))

    def forward(self, input_ids):
        h = self.embedding(input_ids)
        for block in self.blocks:
            h = h + 0.5 * self.call(block, h)
            h = h.tanh()
        return h

    def call(self, block, h):
        return block(h)


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def plain(model, family, mask=None, **weights):
    """Loss and gradients without the code under test."""
    ids = tokens()
    torch.manual_seed(0)  # dropout
    out, hidden = states(model, family, input_ids=ids, labels=ids, attention_mask=mask)
    loss = out.loss + formula(hidden, torch.ones_like(ids).bool() if mask is None else mask.bool(), **weights)
    loss.backward()
    return loss.detach(), gradients(model)


def regularized(model, regularizer, mask=None):
    ids = tokens()
    torch.manual_seed(0)
    out = model(input_ids=ids, labels=ids, attention_mask=mask)
    loss = out.loss + regularizer.loss()
    loss.backward()
    return loss.detach(), gradients(model)


def assert_same(got, wanted, **tolerance):
    assert got[0] == pytest.approx(float(wanted[0]), rel=tolerance.get("rtol", 1e-5))
    assert got[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        scale = float(gradient.abs().max())
        error = float((got[1][name] - gradient).abs().max())
        assert error <= tolerance.get("rtol", 1e-5) * scale + tolerance.get("atol", 1e-12), name
