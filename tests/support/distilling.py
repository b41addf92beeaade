"""Students, batches, and the losses of distillation in float64 NumPy."""

import numpy as np
import torch
from scipy.special import log_softmax
from tiny_models import VOCABULARY, WIDTH

from linscore.distillation import distil as training
from linscore.statistics.affine import AffineMap
from linscore.surgery.linearize import linearize

PAIRS = {1: 1}
LINEAR = ["model.layers.1.weight", "model.layers.1.bias"]


def distil(*args, kl=0.0, **options):
    """On states alone, unless a test asks for more."""
    return training.distil(*args, kl=kl, **options)


def batches(count=3, rows=2, length=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [{"input_ids": torch.randint(VOCABULARY, (rows, length), generator=generator)} for _ in range(count)]


def linear_student(teacher, seed=0, size=0.05):
    """The teacher with a random affine map for block 1."""
    generator = torch.Generator().manual_seed(seed)
    b = size * torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    zero = torch.zeros(WIDTH, dtype=torch.float64)
    return linearize(teacher, {1: AffineMap(b, zero, zero)})


def states(model, ids, index, mask=None):
    """What leaves block `index`; not for the last block, whose entry transformers norms."""
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    return output.hidden_states[index + 1].double().numpy(), output.logits.double().numpy()


def expected(student, teacher, ids, pairs, real=None):
    """Hidden, KL and cross entropy in float64 NumPy, with the states that transformers itself records."""
    real = np.ones(ids.shape, bool) if real is None else real.numpy().astype(bool)
    mask = None if real.all() else torch.tensor(real).long()
    hidden = 0.0
    for ours, theirs in pairs.items():
        h, target = states(student, ids, ours, mask)[0][real], states(teacher, ids, theirs, mask)[0][real]
        hidden += np.mean((h - target) ** 2) / np.mean((target - target.mean(0)) ** 2)
    log_q, log_p = (log_softmax(states(model, ids, 0, mask)[1], axis=-1) for model in (student, teacher))
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)[real].mean()
    lm = [
        -log_q[row, at, ids[row, at + 1]]
        for row in range(ids.shape[0])
        for at in range(ids.shape[1] - 1)
        if real[row, at] and real[row, at + 1]
    ]
    return hidden, kl, np.mean(lm)
