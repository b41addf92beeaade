"""States beside a δ that is narrower than they are, and comparison with NumPy."""

from __future__ import annotations

import numpy as np
import torch


def sample(n: int, d: int, e: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """x of correlated features with means, and a δ `[n, e]` that is partly linear in x and has means too."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x = randn(n, d) @ (randn(d, d) / d**0.5 + torch.eye(d)) + randn(d)
    delta = 0.1 * torch.tanh(x) @ randn(d, e) + 0.05 * randn(n, e) + randn(e)
    return x.to(dtype), delta.to(dtype)


def numpy_of(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [tensor.double().numpy() for tensor in tensors]


def assert_close(got: torch.Tensor, expected: np.ndarray, relative: float) -> None:
    assert got.shape == expected.shape
    assert np.linalg.norm(got.numpy() - expected) <= relative * np.linalg.norm(expected)
