"""The products that `tune` measures, on random operands, each with its error against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..residuals.kernel import launch_residual_norms, round_map, torch_norms
from ..second_moments.gram_kernel import launch_gram
from ..second_moments.merge_kernel import launch_merge
from ..second_moments.tile_list import LONGEST
from ..second_moments.token_stats_kernel import operand_shape
from ..second_moments.torch_products import torch_partials
from .parameters import Launch, narrowed

DTYPE = torch.bfloat16  # of single operands and of x; float16 takes the same instructions
SAMPLED = 128  # features of a Gram matrix, or tokens of the residual norms, that are held against float64


class Case(NamedTuple):
    """What is computed."""

    path: str
    width: int  # features
    tokens: int
    device: torch.device
    flush: int  # tokens that one sum of torch's takes at most; 0: LONGEST


class Product(NamedTuple):
    """How it is computed, by a launch or, where that is None, by torch, and the relative error of that."""

    run: Callable[[Launch | None], object]
    error: Callable[[Launch | None], float]


def product_of(case: Case) -> Product:
    """Random operands for the case, the same each time, and what computes and checks it."""
    generator = torch.Generator(case.device).manual_seed(0)
    values = torch.randn(2, case.tokens, case.width, generator=generator, device=case.device)
    return residual_product(case, *values) if case.path == "residual" else gram_product(case, values)


def gram_product(case: Case, values: Tensor) -> Product:
    """The Gram products of x̂ and δ̂, `values` `[2, tokens, width]`, and their merging into float64."""
    d, operands = case.width, _operands(case, values)
    out = torch.zeros(d, 2 * d, dtype=torch.float64, device=case.device)
    sample = _sample(d, case.device)
    x_hat, delta_hat = operands[:, : case.tokens, :d].unflatten(0, (2, -1)).sum(1, dtype=torch.float64)
    upper = torch.arange(2 * d, device=case.device) >= sample[:, None]
    true = torch.cat([x_hat[:, sample].T @ x_hat, x_hat[:, sample].T @ delta_hat], 1) * upper

    def run(launch: Launch | None) -> None:
        if launch is None:
            launch_merge(torch_partials(operands, d, case.flush or LONGEST), out)
        else:
            launch_gram(operands, out, narrowed(launch, d))

    def error(launch: Launch | None) -> float:
        out.zero_()
        run(launch)
        return ((out[sample] * upper - true).norm() / true.norm()).item()

    return Product(run, error)


def _sample(size: int, device: torch.device) -> Tensor:
    """SAMPLED of `size` places, at random so that every part of a tile is among them."""
    return torch.randperm(size, generator=torch.Generator(device).manual_seed(0), device=device)[:SAMPLED]


def _operands(case: Case, values: Tensor) -> Tensor:
    shape, dtype = operand_shape(case.tokens, case.width, DTYPE, split=case.path == "split")
    operands = values.new_zeros(shape, dtype=dtype)
    hi = values.to(dtype)
    parts = [hi] if case.path == "single" else [hi, (values - hi.float()).to(dtype)]
    operands[:, : case.tokens, : case.width] = torch.stack(parts, 1).flatten(0, 1)
    return operands


def residual_product(case: Case, x: Tensor, y: Tensor) -> Product:
    """The residual norms of `x` and `y` `[tokens, width]` under a random map of about unit norm."""
    d = case.width
    x, y = x.to(DTYPE), y.to(DTYPE)
    zeros = torch.zeros(d, device=case.device)
    fitted = round_map(torch.randn(d, d, device=case.device) / d**0.5, zeros, zeros, DTYPE)
    sample = _sample(case.tokens, case.device)
    x_sample, matrix = x[sample].double(), fitted.matrix[:d, :d].double() * fitted.unit[:d]
    true = (y[sample].double() - x_sample - x_sample @ matrix).norm(dim=1)

    def run(launch: Launch | None) -> Tensor:
        if launch is None:
            return torch_norms(x, y, fitted, delta_given=False)
        return launch_residual_norms(x, y, fitted, delta_given=False, launch=narrowed(launch, d))

    def error(launch: Launch | None) -> float:
        return ((run(launch)[sample] - true).norm() / true.norm()).item()

    return Product(run, error)
