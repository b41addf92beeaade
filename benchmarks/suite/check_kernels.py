"""Every kernel against float64 on the device that will be measured, before anything is measured.

Error budget: at most twice that of the plain torch expression in the same dtype, and what tensor cores may lose where
they truncate as they add up, 2⁻²⁴ for each 16 tokens that one accumulator takes: torch may split the tokens further.
Errors of products are relative to √(Σx̂ᵢ² Σδ̂ⱼ²), so that no feature hides behind a larger one.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from linscore_kernels import FIGURES, LIGHT, Pilot, accumulate, gram, layer_distances, residual_norms, token_stats
from linscore_kernels.pilot import HEAVY_MEDIANS
from one_sum import in_one_sum
from shapes import DEVICE, SHAPES
from torch import Tensor

from linscore import Moments, block_metrics
from linscore.machine.kernel_cases import random_states

GROUP = "checks against float64"
TRUNCATION = {"fast": 6e-5, "exact": 1e-5}  # 16,384 tokens; 1,024 in each of three products
PATHS = [
    (torch.bfloat16, "fast"),
    (torch.bfloat16, "exact"),
    (torch.float32, "fast"),
    pytest.param(torch.float16, "fast", marks=pytest.mark.further),  # takes the way of bfloat16
]
by_shape = pytest.mark.parametrize(
    ("d", "tokens"), [*SHAPES.checked, *(pytest.param(*shape, marks=pytest.mark.further) for shape in SHAPES.further)]
)
by_path = pytest.mark.parametrize(("dtype", "precision"), PATHS, ids=lambda value: str(value).removeprefix("torch."))


def hard_states(d: int, tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Columns whose scales differ by 10⁴, a tenth of them with means of 30 σ, and a few attention sinks."""
    x, y = (t.float() for t in random_states(d, tokens, torch.float32, DEVICE))
    scale = torch.logspace(-2, 2, d, device=DEVICE)[torch.randperm(d, generator=torch.Generator().manual_seed(1))]
    mean = 30 * scale * (torch.arange(d, device=DEVICE) % 10 == 0)
    x, delta = x * scale + mean, (y - x) * scale
    x[:: max(1, tokens // 3)] *= 100
    return x.to(dtype), (x + delta).to(dtype)


def shifted(x: Tensor, y: Tensor, pilot: Pilot) -> tuple[Tensor, Tensor]:
    """x̂ and δ̂ in float64."""
    delta = y.double() - x.double()
    return x.double() - pilot.center_x.double(), delta - pilot.center_delta.double()


def product_error(second: Tensor, x: Tensor, delta: Tensor) -> float:
    """The largest error of [Σx̂x̂ᵀ | Σx̂δ̂ᵀ], above the diagonal, against float64 products of `x` and `delta`."""
    x, delta = x.double(), delta.double()
    d, norm_x, norm_delta = x.shape[1], x.norm(dim=0), delta.norm(dim=0)
    left = (second[:, :d].double() - x.T @ x) / (norm_x[:, None] * norm_x).clamp_min(1e-300)
    right = (second[:, d:].double() - x.T @ delta) / (norm_x[:, None] * norm_delta).clamp_min(1e-300)
    return max(left.triu().abs().max().item(), right.abs().max().item())


def torch_products(x: Tensor, delta: Tensor, dtype: torch.dtype) -> Tensor:
    """[xᵀx | xᵀδ] by plain torch: operands of `dtype`, sums in float32."""
    x, delta = x.to(dtype), delta.to(dtype)
    both = torch.cat([x, delta], 1)
    if x.is_cuda and dtype.itemsize == 2:
        return torch.mm(x.T, both, out_dtype=torch.float32)
    return x.float().T @ both.float()


def within_budget(record_property, error: float, of_torch: float, precision: str) -> None:
    record_property("error", error)
    record_property("of plain torch", of_torch)
    assert error <= 2 * of_torch + TRUNCATION[precision]


@by_path
@by_shape
def test_gram_of_given_operands(record_property, d, tokens, dtype, precision):
    x, y = random_states(d, tokens, dtype, DEVICE)
    operands = token_stats(x, y, pilot=Pilot.choose(x, y), precision=precision).operands
    second = torch.zeros(d, 2 * d, dtype=torch.float64, device=DEVICE)
    gram(operands, second)
    left, right = (half.double().sum(0)[:tokens, :d] for half in operands.chunk(2))  # hi + lo where they are split
    plain = torch_products(left, right, operands.dtype if len(operands) == 2 else torch.float32)
    within_budget(record_property, product_error(second, left, right), product_error(plain, left, right), precision)


@by_path
def test_long_sums_of_positive_terms(record_property, dtype, precision):
    """Tensor cores may truncate as they add up: here every term is positive, so that what is cut off adds up too."""
    d, tokens = 128, SHAPES.long_sum
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = torch.rand(tokens, d, generator=generator, device=DEVICE).add_(0.5).to(dtype)
    pilot = Pilot.choose(x, None, x)
    uncentred = Pilot(*(torch.zeros_like(pilot.center_x),) * 2, pilot.scale_x, pilot.scale_delta, *[float("inf")] * 2)
    operands = token_stats(x, None, x, pilot=uncentred, precision=precision).operands
    second = torch.zeros(d, 2 * d, dtype=torch.float64, device=DEVICE)
    in_one_sum(operands, second)
    left, right = (half.double().sum(0)[:tokens, :d] for half in operands.chunk(2))
    plain = torch_products(left, right, operands.dtype if len(operands) == 2 else torch.float32)
    record_property("tokens of one accumulator", tokens)
    within_budget(record_property, product_error(second, left, right), product_error(plain, left, right), precision)


@pytest.mark.further
@pytest.mark.skipif(DEVICE.type != "cuda", reason="kernels that tuning tries on a GPU")
@pytest.mark.parametrize("kernel", ["nested", "flattened", "gluon"])
def test_gram_by_other_kernels(record_property, kernel):
    from linscore_kernels.launching import capability
    from linscore_kernels.second_moments.gluon_check import fault_apart
    from linscore_kernels.second_moments.gram_kernel import launch_gram
    from linscore_kernels.tuning.tune import candidates

    launches = candidates(capability(torch.empty(0, device=DEVICE)), "single").values()
    launch = next((launch for launch in launches if launch.kernel == kernel), None)
    if launch is None:
        pytest.skip("there is none for this GPU")
    if kernel == "gluon":
        assert not fault_apart(launch, DEVICE)
    d, tokens = SHAPES.checked[-1]
    x, y = random_states(d, tokens, torch.bfloat16, DEVICE)
    operands = token_stats(x, y, pilot=Pilot.choose(x, y)).operands
    left, right = operands.double()[:, :tokens, :d]
    plain = torch_products(left, right, operands.dtype)
    for splits in (1, 3):
        second = torch.zeros(d, 2 * d, dtype=torch.float64, device=DEVICE)
        launch_gram(operands, second, launch, splits)
        within_budget(record_property, product_error(second, left, right), product_error(plain, left, right), "fast")


@by_path
@by_shape
def test_accumulate_hard_states(record_property, d, tokens, dtype, precision):
    if dtype is torch.float16:
        pytest.skip("30 σ of the widest columns would overflow float16")
    x, y = hard_states(d, tokens, dtype)
    pilot = Pilot.choose(x, y)
    second = torch.zeros(d, 2 * d, dtype=torch.float64, device=DEVICE)
    sums = accumulate(x, y, None, second, pilot=pilot, precision=precision)
    light = sums.status == LIGHT
    record_property("heavy rows", int((~light).sum()))
    assert 0 < (~light).sum() < tokens / 10
    x, delta = shifted(x[light], y[light], pilot)
    plain = torch_products(x, delta, torch.float32 if precision == "exact" else dtype)
    within_budget(record_property, product_error(second, x, delta), product_error(plain, x, delta), precision)


@by_path
@by_shape
def test_token_stats(record_property, d, tokens, dtype, precision):
    if dtype is torch.float16:
        pytest.skip("as above")
    x, y = hard_states(d, tokens, dtype)
    pilot = Pilot.choose(x, y)
    stats = token_stats(x, y, pilot=pilot, precision=precision)
    x_hat, delta_hat = shifted(x, y, pilot)
    norms = [t.double().norm(dim=1) for t in (x, y, y.double() - x.double())]
    truth = torch.stack([*norms, delta_hat.square().sum(1)])
    error = (stats.figures[: len(truth)] / truth - 1).abs().max().item()
    heavy = (x_hat.norm(dim=1) > pilot.limit_x) | (delta_hat.norm(dim=1) > pilot.limit_delta)
    sums = torch.stack([t[stats.status == LIGHT].sum(0) for t in (x_hat, delta_hat)])
    scale = torch.stack([t[stats.status == LIGHT].abs().sum(0) for t in (x_hat, delta_hat)])
    record_property("error of " + ", ".join(FIGURES[: len(truth)]), error)
    record_property("error of column sums", ((stats.sums - sums) / scale).abs().max().item())
    assert error < 1e-5
    assert ((stats.sums - sums) / scale).abs().max() < 1e-6
    assert torch.equal(stats.status != LIGHT, heavy), f"rows beyond {HEAVY_MEDIANS} medians"


@by_path
@by_shape
def test_residual_norms(record_property, d, tokens, dtype, precision):
    x, y = random_states(d, tokens, dtype, DEVICE)
    b = torch.randn(d, d, dtype=torch.float64, device=DEVICE) * (0.05 / d**0.5)
    x64, delta = x.double(), y.double() - x.double()
    mean_x, mean_delta = x64.mean(0), delta.mean(0)
    truth = (delta - (x64 - mean_x) @ b - mean_delta).norm(dim=1)
    norms = residual_norms(x, y, b=b, mean_x=mean_x, mean_delta=mean_delta, precision=precision)
    kept = torch.float32 if precision == "exact" else dtype
    product = (x64 - mean_x).to(kept) @ b.to(kept)
    plain = (delta.float() - product.float() - mean_delta.float()).norm(dim=1)
    error, of_torch = ((norms.double() / truth - 1).abs().max().item() for norms in (norms, plain))
    within_budget(record_property, error, of_torch, precision)


def test_layer_loss_and_its_gradient(record_property):
    """Of more states than one launch walks along, in the dtype that is measured."""
    d, tokens = SHAPES.checked[-1]
    x, y = random_states(d, tokens, SHAPES.dtype, DEVICE)
    states = [torch.lerp(x, y, float(i)).requires_grad_() for i in range(12)]
    exact = [state.detach().double().requires_grad_() for state in states]
    upstream, weight = torch.tensor([1.0, 0.1], device=DEVICE), torch.ones(tokens, device=DEVICE)
    loss = layer_distances(states, weight)[0] @ upstream
    pairs = list(pairwise(exact))
    cosine = sum((1 - torch.cosine_similarity(h, m, dim=1)).sum() for h, m in pairs)
    truth = upstream[0] * cosine + upstream[1] * sum((h - m).square().sum() for h, m in pairs)
    gradients = zip(torch.autograd.grad(loss, states), torch.autograd.grad(truth, exact), strict=True)
    error = max(((got.double() - of_truth).norm() / of_truth.norm()).item() for got, of_truth in gradients)
    record_property("error of the loss", abs(loss.item() / truth.item() - 1))
    record_property("error of the gradients", error)
    assert abs(loss.item() / truth.item() - 1) < 1e-5
    assert error < torch.finfo(SHAPES.dtype).eps


@by_path
def test_two_runs_are_equal_in_every_bit(dtype, precision):
    d, tokens = SHAPES.checked[-1]
    x, y = random_states(d, tokens, dtype, DEVICE)
    pilot = Pilot.choose(x, y)
    fitted = {
        "b": torch.randn(d, d, device=DEVICE).double() / d,
        "mean_x": x.float().mean(0),
        "mean_delta": y[0].float(),
    }
    runs = []
    for _ in range(2):
        second = torch.zeros(d, 2 * d, dtype=torch.float64, device=DEVICE)
        sums = accumulate(x, y, None, second, pilot=pilot, precision=precision)
        norms = residual_norms(x, y, precision=precision, **fitted)
        tensors = [part for part in sums if isinstance(part, Tensor)]
        runs.append([*tensors, second[:, :d].triu(), second[:, d:], norms])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@by_path
def test_merged_halves_equal_the_whole(record_property, dtype, precision):
    """Each half has a pilot of its own, so merging moves one to the other's centre."""
    d, tokens = SHAPES.checked[0]
    x, y = random_states(d, max(tokens, 20 * d), dtype, DEVICE)
    parts = [(x, y), (x[: len(x) // 2], y[: len(x) // 2]), (x[len(x) // 2 :], y[len(x) // 2 :])]
    whole, first, second = (Moments(d, precision=precision, device=DEVICE) for _ in parts)
    for moments, part in zip((whole, first, second), parts, strict=True):
        moments.update(*part)
    expected, merged = block_metrics(whole), block_metrics(first.merge(second))
    error = abs(expected.linearity_no_residual - merged.linearity_no_residual)
    record_property("difference of the score without residual", error)
    assert error < (1e-7 if precision == "exact" else 1e-4)
