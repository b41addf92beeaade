"""What a tensor core that truncates its float32 sums does to scores: an emulation, on the built-in decoder in bfloat16.

    python -m benchmarks.studies.truncation

Tensor cores are reported to round toward zero whenever they add 16 products to the sum. Here every such step is done in
float64 and cut to float32, sums are flushed every so many tokens, and the scores without residual are compared with
those of the unrounded states. A stand-in for a GPU, not a measurement of one.
"""

from __future__ import annotations

import numpy as np
import torch
from linscore_kernels import Pilot
from torch import Tensor

from linscore.decoder.find import find_decoder
from linscore.decoder.run import run, watch
from linscore.embedded.shipped import EMBEDDED_TEXT
from linscore.models.load import load_pretrained
from linscore.statistics.centered import Centered
from linscore.statistics.solve import solve
from linscore.text.documents import read_documents
from linscore.text.packing import batches, pack

TOKENS, STEP, BLOCKS = 16_384, 16, (0, 2, 5, 9)


def states_of_blocks() -> dict[int, tuple[Tensor, Tensor]]:
    """What enters and leaves some blocks, `[TOKENS, d]` bfloat16."""
    loaded = load_pretrained(dtype="bfloat16", device="cpu")
    found: dict[int, list] = {block: [] for block in BLOCKS}
    decoder = find_decoder(loaded.model)
    sequences = pack(read_documents(EMBEDDED_TEXT), loaded.tokenizer, seq_len=256, folds=1, tokens=TOKENS + 4096)
    with watch(decoder, lambda index, s: found[index].append((s.x.flatten(0, 1), s.y.flatten(0, 1))), BLOCKS, None):
        for batch in batches(sequences, 8):
            run(decoder, batch["input_ids"])
    return {block: tuple(torch.cat(t)[:TOKENS] for t in zip(*pairs, strict=True)) for block, pairs in found.items()}


def toward_zero(exact: Tensor) -> Tensor:
    """float64 cut to float32."""
    wide = exact.numpy()
    narrow = wide.astype(np.float32)
    narrow = np.where(np.abs(narrow.astype(np.float64)) > np.abs(wide), np.nextafter(narrow, np.float32(0)), narrow)
    return torch.from_numpy(narrow.astype(np.float64))


def truncated_products(x_hat: Tensor, delta_hat: Tensor, flush: int) -> Tensor:
    """[Σx̂x̂ᵀ | Σx̂δ̂ᵀ] `[d, 2d]`, truncated to float32 every STEP tokens, flushed to float64 every `flush`."""
    both = torch.cat([x_hat, delta_hat], 1)
    total = torch.zeros(x_hat.shape[1], both.shape[1], dtype=torch.float64)
    sums = total.clone()
    for start in range(0, len(x_hat), STEP):
        sums = toward_zero(sums + x_hat[start : start + STEP].T @ both[start : start + STEP])
        if (start + STEP) % flush == 0:
            total, sums = total + sums, torch.zeros_like(sums)
    return total + sums


def linearity(products: Tensor, x_hat: Tensor, delta_hat: Tensor) -> float:
    """The score without residual, from products about the pilot's centre."""
    n, d = x_hat.shape
    mean_x, mean_delta = x_hat.mean(0), delta_hat.mean(0)
    t_delta = (delta_hat - mean_delta).square().sum().item()
    c_xx, c_xd = (
        m - n * torch.outer(mean_x, v) for m, v in zip(products.split(d, 1), (mean_x, mean_delta), strict=True)
    )
    moments = Centered(n, mean_x, mean_delta, c_xx, c_xd, t_delta)
    return solve(moments, precision="fast", want_map=False).explained / t_delta


def main() -> None:
    for block, (x, y) in states_of_blocks().items():
        pilot = Pilot.choose(x, y)
        x_hat = x.double() - pilot.center_x.double()
        delta_hat = y.double() - x.double() - pilot.center_delta.double()
        light = (x_hat.norm(dim=1) <= pilot.limit_x) & (delta_hat.norm(dim=1) <= pilot.limit_delta)
        x_hat, delta_hat = x_hat[light], delta_hat[light]
        stored = [t.bfloat16().double() for t in (x_hat, delta_hat)]
        truth = linearity(torch.cat([x_hat.T @ x_hat, x_hat.T @ delta_hat], 1), x_hat, delta_hat)
        for flush in (1024, 4096, 16_384):
            off = linearity(truncated_products(*stored, flush), stored[0], stored[1]) - truth
            print(f"block {block}  flushed every {flush:6} tokens: {truth:.6f} {off:+.1e}")


if __name__ == "__main__":
    main()
