"""Every kernel as its launcher compiles it, for every architecture of the launch table.

A case is (architecture, kernel, types of arguments, compile-time values, options); types that are divisible by 16 end
in "/16", and an argument of several tensors has a tuple of types, with "constexpr" where there is None. The
architecture ends the name of a case, the kernel begins it.
"""

from __future__ import annotations

import torch
from linscore_kernels.layer_loss import kernel as layer_loss
from linscore_kernels.residuals.kernel import _residual_norms_kernel, residual_constants
from linscore_kernels.second_moments.gram_kernel import PIECE, _gram_kernel, gram_constants
from linscore_kernels.second_moments.heavy_rows_kernel import SCAN, WIDEST, _heavy_rows_kernel
from linscore_kernels.second_moments.merge_kernel import BLOCK_COLUMNS, BLOCK_ROWS, _merge_tiles_kernel
from linscore_kernels.second_moments.token_stats_kernel import _token_stats_kernel, tile_shape
from linscore_kernels.second_moments.totals_kernel import BLOCK, COLUMNS, PARTS, ROWS, _totals_kernel
from linscore_kernels.tuning.parameters import Launch, launch_for
from linscore_kernels.tuning.tune import candidates

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
MAIN_ARCHITECTURES = (80, 90, 100)
LAYER_LOSS_ARCHITECTURES = (80, 90, 100, 120)


def cases() -> dict[str, tuple]:
    return product_cases() | token_stats_cases() | merge_cases() | layer_loss_cases()


def product_cases() -> dict[str, tuple]:
    found = {}
    for a in ARCHITECTURES:
        found[f"gram-single-bf16-{a}"] = gram_case(a, "single", "bf16", 4096)
        found[f"gram-split-fp16-{a}"] = gram_case(a, "split", "fp16", 4096)
        found[f"gram-single-bf16-odd-{a}"] = gram_case(a, "single", "bf16", 3000)
        found[f"residual-bf16-{a}"] = residual_case(a, "bf16", 4096, delta_given=False)
    for a in (*MAIN_ARCHITECTURES, 120):
        found[f"gram-single-bf16-merged-{a}"] = gram_case(a, "single", "bf16", 4096, merge=True)
        found[f"gram-split-fp16-merged-{a}"] = gram_case(a, "split", "fp16", 4096, merge=True)
        found[f"gram-single-bf16-flattened-{a}"] = persistent_case(a, "flattened")
    found["gram-single-bf16-nested-90"] = persistent_case(90, "nested")
    for a in (90, 100):
        found[f"gram-single-bf16-gluon-{a}"] = persistent_case(a, "gluon")
        found[f"gram-single-bf16-gluon-merged-{a}"] = persistent_case(a, "gluon", merge=True)
    found["gram-single-bf16-flattened-merged-90"] = persistent_case(90, "flattened", merge=True)
    for a in MAIN_ARCHITECTURES:
        found[f"gram-single-fp16-{a}"] = gram_case(a, "single", "fp16", 4096)
        found[f"gram-single-bf16-narrow-{a}"] = gram_case(a, "single", "bf16", 64)
        found[f"residual-fp16-given-{a}"] = residual_case(a, "fp16", 4096, delta_given=True)
        found[f"residual-bf16-narrow-{a}"] = residual_case(a, "bf16", 64, delta_given=False)
    return found


def token_stats_cases() -> dict[str, tuple]:
    found = {"token_stats-single-bf16-d16384-100": token_stats_case(100, 16384, "bf16", False)}
    for a in MAIN_ARCHITECTURES:
        found[f"token_stats-single-bf16-{a}"] = token_stats_case(a, 4096, "bf16", False)
        found[f"token_stats-split-fp32-{a}"] = token_stats_case(a, 4096, "fp32", True)
    for d in (768, 16384):
        found[f"token_stats-single-bf16-d{d}-90"] = token_stats_case(90, d, "bf16", False)
        found[f"token_stats-split-bf16-d{d}-90"] = token_stats_case(90, d, "bf16", True)
    return found


def merge_cases() -> dict[str, tuple]:
    found = {f"merge-single-{a}": merge_case(a, scaled=False) for a in MAIN_ARCHITECTURES}
    found |= {f"totals-{a}": totals_case(a) for a in MAIN_ARCHITECTURES}
    found |= {f"heavy_rows-bf16-{a}": heavy_rows_case(a, "bf16") for a in MAIN_ARCHITECTURES}
    return found | {"merge-split-90": merge_case(90, scaled=True)}


def layer_loss_cases() -> dict[str, tuple]:
    """What a tap asks for everywhere, rows that are not aligned, and whole walks, which take seconds each."""
    found = {}
    for a in LAYER_LOSS_ARCHITECTURES:
        found[f"layer_loss-distances-tap-{a}"] = distances_case(a, "bf16", 4096, 2)
        found[f"layer_loss-gradients-tap-{a}"] = gradients_case(a, "bf16", 4096, 3, added=True)
    found["layer_loss-distances-walk-90"] = distances_case(90, "bf16", 4096, layer_loss.WALK + 1)
    found["layer_loss-gradients-walk-90"] = gradients_case(90, "bf16", 4096, layer_loss.WALK + 3)
    found["layer_loss-distances-odd-90"] = distances_case(90, "bf16", 67, 2)
    return found | {"layer_loss-gradients-odd-90": gradients_case(90, "bf16", 67, 3, added=True)}


def gram_case(
    architecture: int, path: str, dtype: str, d: int, *, merge: bool = False, launch: Launch | None = None
) -> tuple:
    launch = launch or launch_for(architecture, d, path)
    if launch.kernel == "gluon":
        return gluon_case(architecture, dtype, launch, merge=merge)
    left = right = f"*{dtype}"
    if launch.descriptors:
        left = f"tensordesc<{dtype}[{launch.block_k}, {launch.block_m}]>"
        right = f"tensordesc<{dtype}[{launch.block_k}, {launch.block_n}]>"
    types = {"left": left, "right": right, "tiles_ptr": "*i32", "out_ptr": "*fp64" if merge else "*fp32"}
    types |= dict.fromkeys(("rows", "width", "d", "width_delta", "out_stride"), "i32/16")
    types |= dict.fromkeys(("steps", "split_steps", "tiles", "works", "sign"), "i32")
    if d % 16:
        types |= {"d": "i32", "width_delta": "i32"}
    constants = gram_constants(launch, split=path == "split", merge=merge, upcast=False)
    if merge and path == "split":
        types["scale_ptr"] = "*fp32"
    else:
        constants["scale_ptr"] = None
    return architecture, _gram_kernel, types, constants, {"num_warps": launch.warps, "num_stages": launch.stages}


def gluon_case(architecture: int, dtype: str, launch: Launch, *, merge: bool) -> tuple:
    from linscore_kernels.second_moments.gluon_launch import block_layout, gluon_constants, kernel_for

    types = {"tiles_ptr": "*i32", "out_ptr": "*fp64" if merge else "*fp32"}
    for side, columns in (("left", launch.block_m), ("right", launch.block_n)):
        layout = block_layout(launch.block_k, columns, {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype])
        types[side] = f"tensordesc<{dtype}[{launch.block_k}, {columns}],{layout!r}>"
    types |= dict.fromkeys(("rows", "d", "width_delta", "out_stride"), "i32/16")
    types |= dict.fromkeys(("steps", "split_steps", "tiles", "works", "sign"), "i32")
    constants = gluon_constants(launch, PIECE * launch.warps if merge else 0) | {"scale_ptr": None}
    return architecture, kernel_for(architecture), types, constants, {"num_warps": launch.warps}


def persistent_case(architecture: int, kernel: str, *, merge: bool = False) -> tuple:
    """As tuning tries it, of whatever group: that is nothing of the kernel's."""
    launches = candidates(architecture, "single").values()
    launch = next(launch for launch in launches if launch.kernel == kernel)
    return gram_case(architecture, "single", "bf16", 4096, merge=merge, launch=launch)


def residual_case(architecture: int, dtype: str, d: int, *, delta_given: bool) -> tuple:
    launch = launch_for(architecture, d, "residual")
    types = {"right": f"*{dtype}", "x_ptr": f"*{dtype}", "other_ptr": f"*{dtype}", "n": "i32"}
    types |= dict.fromkeys(("unit_ptr", "bias_ptr", "out_ptr"), "*fp32")
    types |= dict.fromkeys(("width", "x_stride", "other_stride", "right_stride"), "i32/16")
    constants = residual_constants(launch, delta_given=delta_given, upcast=False)
    if launch.descriptors:
        types["left"] = f"tensordesc<{dtype}[{launch.block_m}, {launch.block_k}]>"
        types["right"] = f"tensordesc<{dtype}[{launch.block_k}, {launch.block_n}]>"
    else:
        constants["left"] = None
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    return architecture, _residual_norms_kernel, types, constants, options


def token_stats_case(architecture: int, d: int, dtype: str, split: bool) -> tuple:
    shape, options = tile_shape(d, split, architecture)
    operand = "fp16" if split else dtype
    types = {"x_ptr": f"*{dtype}", "other_ptr": f"*{dtype}", "center_ptr": "*fp32", "scale_ptr": "*fp32"}
    types |= {"operands_ptr": f"*{operand}", "figures_ptr": "*fp32", "status_ptr": "*u8", "sums_ptr": "*fp32"}
    types |= {"n": "i32"} | dict.fromkeys(("padded", "d", "width_delta", "width", "x_stride", "other_stride"), "i32/16")
    types |= dict.fromkeys(("limit_x", "limit_delta", "largest", "ulp_factor"), "fp32")
    constants = {
        "rows_ptr": None,
        "x_step": 1,
        "other_step": 1,
        "DELTA_GIVEN": False,
        "SPLIT": split,
        "BY_HAND": False,
    } | shape
    return architecture, _token_stats_kernel, types, constants, options


def merge_case(architecture: int, *, scaled: bool) -> tuple:
    types = {"partial_ptr": "*fp32", "out_ptr": "*fp64"} | ({"scale_ptr": "*fp32"} if scaled else {})
    types |= {"d": "i32/16", "columns": "i32/16", "split_stride": "i32/16", "out_stride": "i32/16"}
    types |= dict.fromkeys(("splits", "sign"), "i32")
    constants = {"BLOCK_ROWS": BLOCK_ROWS, "BLOCK_COLUMNS": BLOCK_COLUMNS} | ({} if scaled else {"scale_ptr": None})
    return architecture, _merge_tiles_kernel, types, constants, {"num_warps": 8}


def totals_case(architecture: int) -> tuple:
    types = {"figures_ptr": "*fp32", "status_ptr": "*u8", "sums_ptr": "*fp32", "totals_ptr": "*fp64"}
    types |= {"columns_ptr": "*fp64"} | dict.fromkeys(("n", "programs", "parts"), "i32")
    types |= dict.fromkeys(("part_stride", "half_stride", "d"), "i32/16")
    constants = {"ROWS": ROWS, "BLOCK": BLOCK, "PARTS": PARTS, "COLUMNS": COLUMNS}
    return architecture, _totals_kernel, types, constants, {"num_warps": 8}


def heavy_rows_case(architecture: int, dtype: str) -> tuple:
    types = {"x_ptr": f"*{dtype}", "other_ptr": f"*{dtype}", "status_ptr": "*u8", "center_ptr": "*fp32"}
    types |= {"operands_ptr": "*fp64", "figures_ptr": "*fp64", "found_ptr": "*u8", "n": "i32", "rows": "i32"}
    types |= dict.fromkeys(("d", "width_delta", "x_stride", "other_stride"), "i32/16") | {"ulp_factor": "fp32"}
    constants = {"rows_ptr": None, "x_step": 1, "other_step": 1, "SCAN": SCAN, "BLOCK": WIDEST, "DELTA_GIVEN": False}
    return architecture, _heavy_rows_kernel, types, constants, {"num_warps": 4}


def distances_case(architecture: int, dtype: str, d: int, states: int) -> tuple:
    shape, options = layer_loss.tile_shape(d)
    size = "i32/16" if d % 16 == 0 else "i32"
    types = {"states": (f"*{dtype}",) * states, "strides": (size,) * states}
    types |= dict.fromkeys(("weight_ptr", "figures_ptr", "terms_ptr"), "*fp32") | {"n": "i32", "d": size}
    constants = shape | {"SHORTEST": 1e-8, "ONE_BY_ONE": False}
    return architecture, layer_loss._distances_kernel, types, constants, options


def gradients_case(architecture: int, dtype: str, d: int, states: int, *, added: bool = False) -> tuple:
    """A walk between others, whose first and last state are read as neighbours alone."""
    shape, options = layer_loss.tile_shape(d, layer_loss.WIDEST)
    size = "i32/16" if d % 16 == 0 else "i32"
    outs, none = ("constexpr", *(f"*{dtype}",) * (states - 2), "constexpr"), ("constexpr",) * states
    types = {"states": (f"*{dtype}",) * states, "strides": (size,) * states, "figures": ("*fp32",) * (states - 1)}
    types |= {"grads": outs if added else none, "grad_strides": (size,) * states, "outs": outs}
    types |= {"weight_ptr": "*fp32", "upstream_ptr": "*fp32", "n": "i32", "d": size}
    constants = shape | {"SHORTEST": 1e-8, "BY_HAND": False}
    return architecture, layer_loss._gradients_kernel, types, constants, options
