"""The least-squares problem behind every score, from moments alone, in float64.

    C_xx = M_xx − s_x s_xᵀ/n     C_xδ = M_xδ − s_x s_δᵀ/n     t_δ = q_δ − ‖s_δ‖²/n
    RSS = min_B ‖X_c B − δ_c‖² = t_δ − tr(C_xδᵀ C_xx⁺ C_xδ)     B* = C_xx⁺ C_xδ

C_xx is equilibrated to unit diagonal first (outlier features differ by 10⁴ in variance). Cholesky where it is well
conditioned, an eigendecomposition with a relative cut-off otherwise; the B meant then has minimum norm: a block that
was seen in few directions is taken for the identity in the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from linscore.statistics.centered import Centered

# Eigenvalues of the equilibrated C_xx below this share of the light rows' largest are noise of the moments: sums of
# float32 products carry about 1e-7, float64 sums about 1e-16 times a growth with d and n.
CUTOFF = {"fast": 1e-7, "exact": 1e-13}  # decisions: Noise is judged by the light rows


@dataclass(frozen=True)
class Solution:
    """What the solve gives: explained = tr(C_xδᵀ C_xx⁺ C_xδ), and the map where it was asked for."""

    explained: float
    rank: int
    cutoff_sensitivity: float  # how much a ten times higher cut-off would explain less, as a share of t_δ
    b: Tensor | None


def solve(moments: Centered, *, precision: str, want_map: bool = True) -> Solution:
    """Least squares of δ on x; `want_map=False` saves half the work where only the score is asked for.

    Sinks can outweigh the light rows a millionfold, but being float64 products they bring no noise: features are
    scaled, and what counts as noise is judged, by the light rows.
    """
    alive = _alive(moments, precision)
    if not alive.all():
        return _solve_alive(moments, alive, precision, want_map)
    equilibrated, scale, floor = equilibrate(moments, precision)
    target = scale[:, None] * moments.c_xd
    factor = _cholesky(equilibrated, moments.directions, floor)
    if factor is not None:
        return _solve_by_cholesky(factor, target, scale, want_map)
    return _solve_by_eigen(equilibrated, target, scale, moments, floor, want_map)


def equilibrate(moments: Centered, precision: str) -> tuple[Tensor, Tensor, float]:
    """D^-½ C_xx D^-½ `[d, d]`, D^-½ `[d]`, and the floor below which an eigenvalue of it is noise.

    D is the diagonal of the light rows' C_xx. A feature that never changes gets a D^-½ of zero.
    """
    light = moments.c_xx if moments.c_xx_light is None else moments.c_xx_light
    diagonal, alive = moments.c_xx.diagonal(), _alive(moments, precision)
    scale = torch.where(light.diagonal() > _noise(moments, precision), light.diagonal(), diagonal).rsqrt()
    scale = torch.where(alive, scale, 0.0)
    equilibrated = scale[:, None] * moments.c_xx * scale
    largest = largest_light = _largest(equilibrated)
    if moments.c_xx_light is not None:
        largest_light = _largest(scale[:, None] * light * scale)
    return equilibrated, scale, max(CUTOFF["exact"] * largest, CUTOFF[precision] * largest_light)


def _alive(moments: Centered, precision: str) -> Tensor:
    """Which features `[d]` change at all."""
    return moments.c_xx.diagonal() > _noise(moments, precision)


def _noise(moments: Centered, precision: str) -> Tensor:
    """A feature that never changes has a variance of zero up to the rounding of its mean square."""
    return moments.n * (CUTOFF[precision] * moments.mean_x).square()


def _solve_alive(moments: Centered, alive: Tensor, precision: str, want_map: bool) -> Solution:
    """Solve without the features that never change: nothing can be read off them."""
    light = moments.c_xx_light
    part = replace(
        moments,
        mean_x=moments.mean_x[alive],
        c_xx=moments.c_xx[alive][:, alive],
        c_xd=moments.c_xd[alive],
        c_xx_light=None if light is None else light[alive][:, alive],
    )
    solution = solve(part, precision=precision, want_map=want_map)
    if solution.b is None:
        return solution
    b = torch.zeros_like(moments.c_xd)
    b[alive] = solution.b
    return replace(solution, b=b)


def _largest(matrix: Tensor) -> float:
    """The largest eigenvalue, from inside, by power iteration."""
    return _rayleigh(matrix, lambda vector: matrix @ vector)


def _rayleigh(matrix: Tensor, step: Callable[[Tensor], Tensor]) -> float:
    """Rayleigh quotient after a few normalized steps from a fixed vector without symmetry."""
    if not len(matrix):
        return 0.0
    vector = torch.linspace(0.5, 1.5, len(matrix), dtype=matrix.dtype, device=matrix.device).mul(len(matrix)).sin()
    for _ in range(5):
        vector = torch.nn.functional.normalize(step(vector), dim=0)
    return (vector @ matrix @ vector).item()


def _cholesky(matrix: Tensor, directions: int, floor: float) -> Tensor | None:
    """The factor, or None where a ten times higher cut-off could touch an eigenvalue."""
    if directions < len(matrix):
        return None
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info.item():
        return None
    smallest = _rayleigh(matrix, lambda vector: torch.cholesky_solve(vector[:, None], factor)[:, 0])
    # The quotient approaches from above: leave a factor of ten for what five steps have not found.
    return factor if smallest > 100 * floor else None


def _solve_by_cholesky(factor: Tensor, target: Tensor, scale: Tensor, want_map: bool) -> Solution:
    half = torch.linalg.solve_triangular(factor, target, upper=False)
    b = scale[:, None] * torch.linalg.solve_triangular(factor.T, half, upper=True) if want_map else None
    return Solution(half.square().sum().item(), len(factor), 0.0, b)


def _solve_by_eigen(
    matrix: Tensor, target: Tensor, scale: Tensor, moments: Centered, floor: float, want_map: bool
) -> Solution:
    values, vectors = torch.linalg.eigh(matrix)
    # n centred rows span at most n − 1 directions: what lies below is rounding, however large it came out.
    most = max(0, min(len(values), moments.directions))
    values, vectors = values.flip(0)[:most], vectors.flip(1)[:, :most]
    kept = values > floor
    values, vectors = values[kept], vectors[:, kept]
    projected = vectors.T @ target
    gains = projected.square().sum(1) / values
    marginal = gains[values <= 10 * floor].sum().item() / moments.t_delta if moments.t_delta > 0 else 0.0
    b = None
    if want_map:
        b = scale[:, None] * (vectors @ (projected / values[:, None]))
        if len(values) < len(scale):  # of all maps that agree on the data, the one of minimum norm
            basis = torch.linalg.qr(vectors / scale[:, None]).Q
            b = basis @ (basis.T @ b)
    return Solution(gains.sum().item(), len(values), marginal, b)
