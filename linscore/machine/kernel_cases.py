"""Each kernel on random states beside what does the same in plain torch: what `linscore bench` and `benchmarks/` time.

Work is counted as the least that any program must do: for the Gram products 3d² FLOP per token (d² of the upper
triangle of Σx̂x̂ᵀ, 2d² of Σx̂δ̂ᵀ), three times that where float32 products are put together from 16-bit ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from linscore_kernels import Pilot, accumulate, centered_gram, gram, residual_norms, token_stats
from torch import Tensor

Function = Callable[[], Any]
COMPILED = "torch.compile"  # the name of that peer
QUACK, FLASH_MUON = "quack", "flash_muon"  # and of those that are packages
SPREAD = 0.1  # ‖δ‖/‖x‖, as in a trained decoder


@dataclass(frozen=True)
class Case:
    """One kernel and its peers, on data of their own."""

    kernel: str
    ours: Function
    peers: dict[str, Function]
    flop: float
    moved: float  # bytes
    rate_dtype: torch.dtype  # whose matrix rate bounds it


def random_states(d: int, tokens: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """States entering and leaving a block, `[tokens, d]`."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(tokens, d, generator=generator, device=device)
    y = torch.randn(tokens, d, generator=generator, device=device).mul_(SPREAD).add_(x)
    return x.to(dtype), y.to(dtype)


def gram_case(
    d: int, tokens: int, dtype: torch.dtype, device: torch.device, *, precision: str = "fast", compiled: bool = False
) -> Case:
    """The products of given operands, against torch's in the same dtype and, on a GPU, in tf32 and float32."""
    x, y = random_states(d, tokens, dtype, device)
    operands = token_stats(x, y, pilot=_pilot(x, y), precision=precision).operands
    second = torch.zeros(d, 2 * d, dtype=torch.float64, device=device)
    stored = operands.dtype if device.type == "cpu" else dtype
    delta = (y.float() - x.float()).to(stored)
    return Case(
        "gram" if precision == "fast" else f"gram, {precision}",
        lambda: gram(operands, second),
        _product_peers(x.to(stored), delta, compiled=compiled),
        flop=3 * d**2 * tokens * _passes(dtype, device, precision),
        moved=operands.nbytes + 1.5 * second.nbytes,  # three quarters of the sums are read and written
        rate_dtype=operands.dtype,
    )


def token_stats_case(d: int, tokens: int, dtype: torch.dtype, device: torch.device, *, compiled: bool = False) -> Case:
    """The pass over the tokens, against a plain copy of as many bytes and the same figures op by op."""
    x, y = random_states(d, tokens, dtype, device)
    pilot = _pilot(x, y)
    moved = sum(part.nbytes for part in (x, y, *token_stats(x, y, pilot=pilot)))
    source = torch.randn(moved // 8, device=device)
    target = torch.empty_like(source)
    peers: dict[str, Function] = {
        "copy of as many bytes": lambda: target.copy_(source),
        "op by op": lambda: _figures(x, y),
    }
    if compiled:
        peers |= _compiled(_figures, x, y)
    return Case("token_stats", lambda: token_stats(x, y, pilot=pilot), peers, 0.0, moved, product_dtype(dtype, device))


def residual_norms_case(
    d: int, tokens: int, dtype: torch.dtype, device: torch.device, *, compiled: bool = False
) -> Case:
    """‖δ − (x − μ_x)B − μ_δ‖ of each token, against the bare product and the same op by op."""
    x, y = random_states(d, tokens, dtype, device)
    stored = product_dtype(dtype, device)
    b = torch.randn(d, d, device=device, dtype=torch.float64) * (SPREAD / d**0.5)
    fitted = {"b": b, "mean_x": x.float().mean(0), "mean_delta": (y.float() - x.float()).mean(0)}
    plain = [t.to(stored) for t in (x, y, *fitted.values())]
    peers: dict[str, Function] = {
        "x @ B": lambda: plain[0] @ plain[2],
        "op by op": lambda: _residuals(*plain),
    }
    if compiled:
        peers |= _compiled(_residuals, *plain)
    return Case(
        "residual_norms",
        lambda: residual_norms(x, y, **fitted),
        peers,
        flop=2 * d**2 * tokens,
        moved=x.nbytes + y.nbytes,
        rate_dtype=stored,
    )


def accumulate_case(d: int, tokens: int, dtype: torch.dtype, device: torch.device) -> Case:
    """The whole pass over a block's states, from x and y to the float64 sums, against the bare products."""
    x, y = random_states(d, tokens, dtype, device)
    pilot = _pilot(x, y)
    second = torch.zeros(d, 2 * d, dtype=torch.float64, device=device)
    stored = product_dtype(dtype, device)
    passes = _passes(dtype, device, "fast")
    return Case(
        "accumulate",
        lambda: accumulate(x, y, None, second, pilot=pilot),
        {"x.T @ x, x.T @ (y − x)": lambda: _products_of_states(x.to(stored), y.to(stored))},
        flop=3 * d**2 * tokens * passes,
        moved=x.nbytes + y.nbytes + 1.5 * second.nbytes,
        rate_dtype=stored if passes == 1 else torch.float16,
    )


def centered_gram_case(
    d: int, tokens: int, dtype: torch.dtype, device: torch.device, *, compiled: bool = False
) -> Case:
    """Centre, normalize and multiply in one call, against the paper's formula as it stands."""
    x, y = random_states(d, tokens, dtype, device)
    peers: dict[str, Function] = {"the formula in float32": lambda: _centered_products(x, y)}
    if device.type == "cuda":
        peers["the formula in tf32"] = lambda: _in_tf32(_centered_products, x, y)
    if compiled:
        peers |= _compiled(_centered_products, x, y)
    passes = _passes(dtype, device, "fast")
    return Case(
        "centered_gram",
        lambda: centered_gram(x, y),
        peers,
        flop=3 * d**2 * tokens * passes,
        moved=x.nbytes + y.nbytes,
        rate_dtype=product_dtype(dtype, device) if passes == 1 else torch.float16,
    )


CASES = (gram_case, partial(gram_case, precision="exact"), token_stats_case, residual_norms_case)


def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What plain torch would multiply states of `dtype` in: torch's CPU products of 16 bit are no faster or exact."""
    return torch.float32 if device.type == "cpu" and dtype.itemsize == 2 else dtype


def _passes(dtype: torch.dtype, device: torch.device, precision: str) -> int:
    """How many 16-bit products stand for one (`linscore_kernels.gram`); the eager backend needs no such thing."""
    return 3 if device.type == "cuda" and (precision == "exact" or dtype is torch.float32) else 1


def _pilot(x: Tensor, y: Tensor) -> Pilot:
    pilot = Pilot.choose(x, y)
    assert pilot is not None  # random states are finite
    return pilot


def _product_peers(x: Tensor, delta: Tensor, *, compiled: bool) -> dict[str, Function]:
    both = torch.cat([x, delta], 1)
    peers: dict[str, Function] = {
        "x.T @ x, x.T @ δ": lambda: _two_products(x, delta),
        "x.T @ [x δ]": lambda: x.T @ both,
    }
    if x.is_cuda and x.dtype.itemsize == 2:
        total = torch.zeros(x.shape[1], both.shape[1], device=x.device)
        peers["x.T @ [x δ] to float32"] = lambda: torch.mm(x.T, both, out_dtype=torch.float32)
        peers["addmm into float32"] = lambda: torch.addmm(total, x.T, both, out_dtype=torch.float32)
    if x.is_cuda:
        wide = x.float(), delta.float()
        peers["two products in tf32"] = lambda: _in_tf32(_two_products, *wide)
        peers["two products in float32"] = lambda: _two_products(*wide)
    return peers | _compiled(_two_products, x, delta) | _symmetric(x, delta) if compiled else peers


def _symmetric(x: Tensor, delta: Tensor) -> dict[str, Function]:
    """The symmetric products of packages that are installed, each with a plain product: the pair is compared."""
    pairs: dict[str, Function] = {QUACK: lambda: _quack_pair(x, delta), FLASH_MUON: lambda: _flash_muon_pair(x, delta)}
    return {name: pair for name, pair in pairs.items() if find_spec(name) and x.dtype.itemsize == 2}


def _quack_pair(x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    out = x.new_empty(x.shape[1], x.shape[1])
    import_module(f"{QUACK}.gemm_interface").gemm_symmetric_out(x.T, x, out)
    return out, x.T @ delta


def _flash_muon_pair(x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    return import_module(f"{FLASH_MUON}.matmul_transpose_triton").matmul_transpose(x.T), x.T @ delta


def _compiled(formula: Callable[..., Any], *arguments: Tensor) -> dict[str, Function]:
    """The formula through torch.compile, for these very shapes; on a GPU with tf32 where it multiplies float32."""
    torch.compiler.reset()  # it would give up after 8 shapes
    fast = torch.compile(formula, dynamic=False)
    call = _in_tf32 if arguments[0].is_cuda else _call
    return {COMPILED: lambda: call(fast, *arguments)}


def _call(formula: Callable[..., Any], *arguments: Tensor) -> Any:
    return formula(*arguments)


def _in_tf32(formula: Callable[..., Any], *arguments: Tensor) -> Any:
    torch.set_float32_matmul_precision("high")
    try:
        return formula(*arguments)
    finally:
        torch.set_float32_matmul_precision("highest")


def _two_products(x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    return x.T @ x, x.T @ delta


def _products_of_states(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x.T @ x, x.T @ (y - x)


def _figures(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """What token_stats finds, but for its judgement of rows."""
    wide, delta = x.float(), y.float() - x.float()
    norms = (wide.norm(dim=1), y.float().norm(dim=1), delta.norm(dim=1))
    return (delta.to(x.dtype), *norms, wide.sum(0), delta.sum(0))


def _residuals(x: Tensor, y: Tensor, b: Tensor, mean_x: Tensor, mean_delta: Tensor) -> Tensor:
    return ((y - x) - (x - mean_x) @ b - mean_delta).float().norm(dim=1)


def _centered_products(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """X̃ᵀX̃ and X̃ᵀỸ."""
    x, y = x.float(), y.float()
    x, y = x - x.mean(0), y - y.mean(0)
    x, y = x / x.norm(), y / y.norm()
    return x.T @ x, x.T @ y
