"""Every kernel compiled for every architecture in the launch table, without a GPU, and what came out of it.

A pytest process may run kernels in Triton's interpreter, where nothing compiles. So this file is also a program: it
runs itself in fresh processes, one per core, each of which compiles its share and prints the facts as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compiled_kernels import MATRIX_INSTRUCTION, SHARED, SUPPORT, TENSOR_MEMORY, assert_fits, compile_or_explain

pytest.importorskip("triton")

MAIN_ARCHITECTURES = (80, 90, 100)


def cases() -> dict[str, tuple]:
    """Name → (architecture, kernel, types of arguments, compile-time values, options)."""
    found = {}
    for architecture in SHARED:
        found[f"gram-single-bf16-{architecture}"] = gram_case(architecture, "single", "bf16", 4096)
        found[f"gram-split-fp16-{architecture}"] = gram_case(architecture, "split", "fp16", 4096)
        found[f"gram-single-bf16-odd-{architecture}"] = gram_case(architecture, "single", "bf16", 3000)
        found[f"residual-bf16-{architecture}"] = residual_case(architecture, "bf16", 4096, delta_given=False)
    for architecture in MAIN_ARCHITECTURES:
        found[f"gram-single-fp16-{architecture}"] = gram_case(architecture, "single", "fp16", 4096)
        found[f"gram-single-bf16-narrow-{architecture}"] = gram_case(architecture, "single", "bf16", 64)
        found[f"residual-fp16-given-{architecture}"] = residual_case(architecture, "fp16", 4096, delta_given=True)
        found[f"residual-bf16-narrow-{architecture}"] = residual_case(architecture, "bf16", 64, delta_given=False)
        found[f"token_stats-single-bf16-{architecture}"] = token_stats_case(architecture, 4096, "bf16", False)
        found[f"token_stats-split-fp32-{architecture}"] = token_stats_case(architecture, 4096, "fp32", True)
        found[f"merge-single-{architecture}"] = merge_case(architecture, scaled=False)
    found["token_stats-single-bf16-d16384-100"] = token_stats_case(100, 16384, "bf16", False)
    for d in (768, 16384):
        found[f"token_stats-single-bf16-d{d}-90"] = token_stats_case(90, d, "bf16", False)
        found[f"token_stats-split-bf16-d{d}-90"] = token_stats_case(90, d, "bf16", True)
    found["merge-split-90"] = merge_case(90, scaled=True)
    return found


def gram_case(architecture: int, path: str, dtype: str, d: int) -> tuple:
    from linscore_kernels.second_moments.gram_kernel import _gram_kernel, gram_constants
    from linscore_kernels.tuning.parameters import launch_for

    launch = launch_for(architecture, d, path)
    left = right = f"*{dtype}"
    if launch.descriptors:
        left = f"tensordesc<{dtype}[{launch.block_k}, {launch.block_m}]>"
        right = f"tensordesc<{dtype}[{launch.block_k}, {launch.block_n}]>"
    types = {"left": left, "right": right, "tiles_ptr": "*i32", "out_ptr": "*fp32"}
    types |= dict.fromkeys(("rows", "width", "d", "width_delta"), "i32/16") | dict.fromkeys(
        ("steps", "split_steps"), "i32"
    )
    if d % 16:
        types |= {"d": "i32", "width_delta": "i32"}
    constants = gram_constants(launch, split=path == "split", upcast=False)
    return architecture, _gram_kernel, types, constants, {"num_warps": launch.warps, "num_stages": launch.stages}


def residual_case(architecture: int, dtype: str, d: int, *, delta_given: bool) -> tuple:
    from linscore_kernels.residuals.kernel import _residual_norms_kernel, residual_constants
    from linscore_kernels.tuning.parameters import launch_for

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
    from linscore_kernels.second_moments.token_stats_kernel import _token_stats_kernel, tile_shape

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
    from linscore_kernels.second_moments.merge_kernel import BLOCK_COLUMNS, BLOCK_ROWS, _merge_tiles_kernel

    types = {"partial_ptr": "*fp32", "out_ptr": "*fp64"} | ({"inverse_ptr": "*fp64"} if scaled else {})
    types |= {"d": "i32/16", "columns": "i32/16", "splits": "i32", "out_stride": "i32/16", "sign": "i32"}
    constants = {"BLOCK_ROWS": BLOCK_ROWS, "BLOCK_COLUMNS": BLOCK_COLUMNS} | ({} if scaled else {"inverse_ptr": None})
    return architecture, _merge_tiles_kernel, types, constants, {"num_warps": 8}


def compile_share(share: int, shares: int) -> dict[str, dict]:
    return {name: compile_or_explain(case) for name, case in list(cases().items())[share::shares]}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Every case, compiled afresh by one process per core."""
    import linscore_kernels

    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(linscore_kernels.__path__[0]).parent), SUPPORT])
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    shares = os.cpu_count() or 1
    command = [sys.executable, __file__]
    running = [
        subprocess.Popen([*command, str(i), str(shares)], env=environment, stdout=subprocess.PIPE)
        for i in range(shares)
    ]
    outputs = [process.communicate()[0] for process in running]
    return {name: case for output in outputs for name, case in json.loads(output).items()}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kernels = {"product": ("gram", "residual"), "token_stats": "token_stats", "merge": "merge"}
    for kernel, prefix in kernels.items():
        if f"{kernel}_case_name" in metafunc.fixturenames:
            metafunc.parametrize(f"{kernel}_case_name", [name for name in cases() if name.startswith(prefix)])


def test_products_run_on_the_matrix_units_without_spilling(facts, product_case_name):
    architecture, case = int(product_case_name.split("-")[-1]), facts[product_case_name]
    assert_fits(case, architecture)
    assert any(MATRIX_INSTRUCTION[architecture] in instruction for instruction in case["matrix"]), case["matrix"]
    assert case["tensor_memory"] <= TENSOR_MEMORY
    assert (case["tensor_memory"] > 0) == (architecture == 100)


def test_products_keep_their_operands_in_flight(facts, product_case_name):
    architecture, case = int(product_case_name.split("-")[-1]), facts[product_case_name]
    assert case["asynchronous"] == ("cp.async.bulk" if architecture >= 90 else "cp.async")
    assert case["shared"] >= case["stage"] * 2  # both operands, at least two steps of them


def test_token_stats_hardly_spills(facts, token_stats_case_name):
    # None in 3.7.1. Within 128 registers 3.6 and 3.9 put up to 72 bytes away, which costs less than half the programs.
    assert_fits(facts[token_stats_case_name], int(token_stats_case_name.split("-")[-1]), spill=96)


def test_merge_does_not_spill(facts, merge_case_name):
    assert_fits(facts[merge_case_name], int(merge_case_name.split("-")[-1]))


if __name__ == "__main__":
    print(json.dumps(compile_share(int(sys.argv[1]), int(sys.argv[2]))))
