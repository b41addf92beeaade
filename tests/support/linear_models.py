"""Maps to put into tiny decoders, and what is asked of them."""

from functools import cache

import torch
from tiny_models import VOCABULARY, WIDTH, shared
from torch import Tensor
from transformers import PreTrainedModel

from linscore.statistics.affine import AffineMap
from linscore.surgery.linearize import linearize


def random_map(seed: int = 0, width: int = WIDTH, mean: float = 1.0, size: float = 0.3) -> AffineMap:
    generator = torch.Generator().manual_seed(seed)
    b, mean_x, mean_delta = (
        torch.randn(*shape, generator=generator).double() for shape in ((width, width), (width,), (width,))
    )
    return AffineMap(size * b / width**0.5, mean * mean_x, 0.3 * mean_delta)


def zero_map(width: int = WIDTH) -> AffineMap:
    return AffineMap(torch.zeros(width, width).double(), torch.ones(width).double(), torch.zeros(width).double())


@cache
def linear_of(family: str, *replaced: int) -> PreTrainedModel:
    """The tiny decoder with a random map for each of the replaced blocks, for tests that leave it as it is."""
    return linearize(shared(family), {index: random_map(index) for index in replaced})


def tokens(batch: int = 2, length: int = 10) -> Tensor:
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model: PreTrainedModel, input_ids: Tensor, **kwargs) -> Tensor:
    return model(input_ids, use_cache=False, **kwargs).logits
