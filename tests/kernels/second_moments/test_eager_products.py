"""Both forms of the eager products, and the memory that they work in, against float64."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from linscore_kernels import Pilot, accumulate
from linscore_kernels.second_moments import eager_products, eager_workspace
from linscore_kernels.second_moments.eager_products import Halves, Strips, products
from linscore_kernels.second_moments.eager_workspace import workspace
from oracles import states


def summed(kind, operands: torch.Tensor, e: int, chunks: int, sign: int = 1) -> torch.Tensor:
    d = operands.shape[2]
    out = torch.ones(d, d + e, dtype=torch.float64)
    with workspace(out.device) as work:
        running = kind(out, operands, work, sign)
        for chunk in operands.chunk(chunks, 1):
            running.add(*chunk)
        running.finish()
    return out


@pytest.mark.parametrize("kind", [Halves, Strips])
@pytest.mark.parametrize(("k", "d", "e", "chunks"), [(2100, 96, 96, 1), (70, 200, 7, 2), (50, 5, 0, 1)])
def test_blocks_make_up_the_products_of_all_rows(kind, k, d, e, chunks):
    operands = torch.randn(2, k, d, generator=torch.Generator().manual_seed(0))
    x, delta = operands.double()
    for sign in (1, -1):
        found = summed(kind, operands, e, chunks, sign) - 1
        expected = sign * torch.cat([x.T @ x, x.T @ delta[:, :e]], 1)
        upper = torch.ones_like(expected).triu().bool()
        torch.testing.assert_close(found[upper], expected[upper], rtol=1e-4, atol=1e-3)


def test_what_the_kept_memory_held_changes_nothing():
    operands = torch.randn(2, 300, 64)
    once = summed(Halves, operands, 64, 1)
    for value in (float("nan"), 3.0):
        eager_workspace._kept[:] = [torch.full((1 << 20,), value).view(torch.uint8)]
        for kind in (Halves, Strips):
            found = summed(kind, operands, 64, 1)
            torch.testing.assert_close(found.triu(), once.triu(), rtol=1e-4, atol=1e-3)


def test_memory_is_kept_up_to_a_bound_and_never_handed_out_twice(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(eager_workspace, "MOST", 1 << 16)
    eager_workspace._kept.clear()
    with workspace(cpu) as work:
        work.take(torch.float32, 1000)
    with workspace(cpu) as one, workspace(cpu) as two:
        first, second = one.take(torch.float32, 1000), two.take(torch.float32, 1000)
        assert first.data_ptr() != second.data_ptr()
    with workspace(cpu) as work:
        kept = work.take(torch.uint8, 1000).data_ptr()
    with workspace(cpu) as work:
        assert work.take(torch.uint8, 1000).data_ptr() == kept
        work.take(torch.uint8, 1 << 20)
    assert len(eager_workspace._kept) == 1
    assert len(eager_workspace._kept[0]) <= 1 << 16


def test_threads_and_inference_mode_get_the_same_sums():
    x, y = states(300, 32)
    pilot = Pilot.choose(x, y)

    def sums(inference: bool) -> torch.Tensor:
        with torch.inference_mode(inference):
            second = torch.zeros(32, 64, dtype=torch.float64)
            for _ in range(5):
                accumulate(x, y, None, second, pilot=pilot)
        return second

    alone = sums(False)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(found, alone) for found in pool.map(sums, [True, False] * 4))


def test_the_form_depends_on_machine_and_width_alone(monkeypatch):
    like, out = torch.empty(2, 8, 1024), torch.empty(1024, 2048)

    def chosen(width: int) -> type:
        with workspace(like.device) as work:
            return type(products(out[:width, : 2 * width], like[..., :width], work))

    monkeypatch.setattr(eager_products, "_has_onednn", lambda: True)
    monkeypatch.setattr(eager_products, "_has_amx", lambda: False)
    assert [chosen(width) for width in (512, 768, 1024)] == [Halves, Halves, Strips]
    monkeypatch.setattr(eager_products, "_has_amx", lambda: True)
    assert [chosen(width) for width in (256, 512, 768)] == [Halves, Strips, Strips]
    monkeypatch.setattr(eager_products, "_has_onednn", lambda: False)
    assert chosen(1024) is Halves
