"""How the products are cut into tiles, shared by programs, or left to torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

from kernel_oracles import DEVICE, FLOAT32_ERROR, SMALL, error, hard, moments, products, shifted, torch_everywhere
from linscore_kernels.second_moments import gram_kernel
from linscore_kernels.second_moments import triton as triton_backend
from linscore_kernels.second_moments.merge_kernel import launch_merge
from linscore_kernels.second_moments.tile_list import splits_for, tile_list
from linscore_kernels.second_moments.torch_products import torch_partials


def test_the_tile_list_covers_the_triangle_once():
    for d, block_m, block_n in ((130, 32, 64), (300, 128, 64), (67, 64, 64)):
        tiles = tile_list(d, block_m, block_n, torch.device("cpu")).tolist()
        covered = torch.zeros(d + block_m, 2 * (d + block_n), dtype=torch.int32)
        half = -(-d // block_n)
        for i, j in tiles:
            column = (j % half) * block_n
            covered[i * block_m : (i + 1) * block_m, column + (j >= half) * d :][:, : min(block_n, d - column)] += 1
        covered = covered[:d, : 2 * d]
        assert (covered[:, d:] == 1).all()
        assert (covered[:, :d].triu() == torch.ones(d, d, dtype=torch.int32).triu()).all()
        assert covered.max() == 1


def test_a_group_of_tiles_changes_their_order_alone():
    eight, sixteen = (tile_list(2100, 128, 256, torch.device("cpu"), group=group).tolist() for group in (8, 16))
    assert sorted(eight) == sorted(sixteen)
    assert [i for i, _ in sixteen[:17]] == [*range(2), *range(4), *range(6), *range(5)]
    assert [i for i, _ in eight[20:30]] == [i % 8 for i in range(10)]


def test_splits_fill_the_device_only_where_tiles_do_not():
    assert splits_for(8192, tiles=784, programs=132) == 1
    assert splits_for(16384, tiles=24, programs=132) >= 5
    assert splits_for(65536, tiles=784, programs=132) >= 4  # no accumulator takes more than 16,384 tokens
    assert splits_for(128, tiles=1, programs=132) == 1


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_where_torch_is_faster_its_products_give_the_moments(monkeypatch, precision):
    torch_everywhere(monkeypatch)
    monkeypatch.setattr(triton_backend, "launch_gram", None)
    x, y, pilot = hard(300, 67, torch.float16)
    x_hat, delta_hat = shifted(x, y.double() - x.double(), pilot)
    with torch.autocast(DEVICE.type, torch.bfloat16):  # which is the caller's
        second, _ = moments(x, y, pilot, precision=precision, launch=None)
    budget = 2 * FLOAT32_ERROR
    if precision == "fast":
        rounded = products(x_hat.to(x.dtype).float(), delta_hat.to(x.dtype).float())
        budget = 2 * error(rounded, x_hat, delta_hat, pilot)
    assert error(second, x_hat, delta_hat, pilot) <= budget


@pytest.mark.parametrize(("rows", "longest"), [(128, 1024), (1664, 256), (1664, 1024)])
def test_torch_partials_take_every_token_once_and_no_more_than_allowed(rows, longest):
    operands = torch.randn(2, rows, 48, generator=torch.Generator().manual_seed(0)).half().to(DEVICE)
    partials = torch_partials(operands, 40, longest)
    x_hat, delta_hat = operands[:, :, :40].double()
    true = products(x_hat, delta_hat)
    assert partials.dtype is torch.float32
    assert len(partials) >= rows / longest
    torch.testing.assert_close(partials.double().sum(0), true, rtol=0, atol=1e-6 * rows)


@pytest.mark.parametrize(("rows", "width"), [(100, 48), (1, 40), (260, 16)])
def test_gram_takes_every_row_of_operands_that_token_stats_did_not_make(rows, width):
    operands = torch.randn(2, rows, width, generator=torch.Generator().manual_seed(0)).half().to(DEVICE)
    out = torch.zeros(width, 2 * width, dtype=torch.float64, device=DEVICE)
    triton_backend.gram(operands, out)
    true = products(*operands.double())
    torch.testing.assert_close(out.triu(), true.triu(), rtol=0, atol=1e-6 * rows)


def test_partial_tiles_may_lie_any_number_of_entries_apart():
    """Further apart than int32 counts at 53,248 columns; here three times the same ones, none apart."""
    partial = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    out = torch.zeros(5, 9, dtype=torch.float64, device=DEVICE)
    launch_merge(partial.expand(3, -1, -1), out)
    assert torch.equal(out.triu(), 3 * partial.double().triu())


@pytest.mark.slow
@pytest.mark.parametrize(("splits", "descriptors"), [(1, True), (2, False), (2, True)])
def test_persistent_programs_give_the_same_bits_in_any_order_of_tiles(monkeypatch, splits, descriptors):
    """Two programs for four tiles and three steps of tokens, which two splits share unequally."""
    monkeypatch.setattr(gram_kernel, "multiprocessors", lambda _: 2)
    operands = torch.randn(2, 384, 80, generator=torch.Generator().manual_seed(0)).bfloat16().to(DEVICE)
    x_hat, delta_hat = operands[:, :, :70].double()
    sums = []
    for kernel, group in (("tile", 8), ("nested", 1), ("flattened", 2)):
        out = torch.zeros(70, 140, dtype=torch.float64, device=DEVICE)
        launch = replace(SMALL, warps=8, descriptors=descriptors, halves=True, kernel=kernel, group=group)
        gram_kernel.launch_gram(operands, out, launch, splits)
        sums.append(out)
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])
    torch.testing.assert_close(sums[0].triu(), products(x_hat, delta_hat).triu(), rtol=0, atol=1e-6 * 384)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("parts", [2, 4])
def test_whole_tiles_are_added_by_the_program_that_has_them(monkeypatch, parts, sign):
    """Integers, whose products are exact: divided by the scales, and nothing beyond the columns is touched."""
    monkeypatch.setattr(gram_kernel, "launch_merge", None)
    generator = torch.Generator().manual_seed(0)
    operands = torch.randint(-4, 5, (parts, 128, 80), generator=generator).half().to(DEVICE)
    scale = torch.exp2(torch.randint(-30, 31, (110,), generator=generator)).to(DEVICE)
    whole = torch.ones(70, 120, dtype=torch.float64, device=DEVICE)
    out = whole[:, :110]
    gram_kernel.launch_gram(operands, out, SMALL, 1, scale=scale, sign=sign)
    x, delta = operands.double().split(parts // 2)
    right = torch.cat([x[..., :70], delta[..., :40]], 2)
    pairs = [(0, 0)] if parts == 2 else [(0, 0), (0, 1), (1, 0)]  # hi·hi, hi·lo, lo·hi
    total = sum(x[i, :, :70].T @ right[j] for i, j in pairs)
    expected = 1 + sign * total / (scale[:70, None].double() * scale.double())
    assert torch.equal(out.triu(), expected.triu())
    assert (whole[:, 110:] == 1).all()
