"""What came out of compiling every kernel for every architecture in the launch table, without a GPU."""

from __future__ import annotations

import pytest
from compiled_kernels import MATRIX_INSTRUCTION, SHARED, TENSOR_MEMORY, assert_fits

pytest.importorskip("triton")

from compile_cases import (
    ARCHITECTURES,
    LAYER_LOSS_ARCHITECTURES,
    LAYER_LOSS_KERNELS,
    cases,
    layer_loss_cases,
    merge_cases,
    product_cases,
    token_stats_cases,
)

pytestmark = pytest.mark.slow


def architecture_of(case: str) -> int:
    return int(case.split("-")[-1])


def test_every_case_was_compiled(facts):
    assert list(facts) == list(cases())
    assert set(SHARED) == set(MATRIX_INSTRUCTION) == set(ARCHITECTURES)
    assert len(layer_loss_cases()) == len(LAYER_LOSS_KERNELS) * (len(LAYER_LOSS_ARCHITECTURES) + 1)


@pytest.mark.parametrize("case", product_cases())
def test_products_run_on_the_matrix_units_without_spilling(facts, case):
    architecture, found = architecture_of(case), facts[case]
    assert_fits(found, architecture)
    assert any(MATRIX_INSTRUCTION[architecture] in instruction for instruction in found["matrix"]), found["matrix"]
    assert found["tensor_memory"] <= TENSOR_MEMORY
    assert (found["tensor_memory"] > 0) == (architecture == 100)


@pytest.mark.parametrize("case", product_cases())
def test_products_keep_their_operands_in_flight(facts, case):
    found = facts[case]
    assert found["asynchronous"] == ("cp.async.bulk" if architecture_of(case) >= 90 else "cp.async")
    assert found["shared"] >= found["stage"] * 2  # both operands, at least two steps of them


@pytest.mark.parametrize("case", token_stats_cases())
def test_token_stats_hardly_spills(facts, case):
    # None in 3.7.1. Within 128 registers 3.6 and 3.9 put up to 72 bytes away, which costs less than half the programs.
    assert_fits(facts[case], architecture_of(case), spill=96)


@pytest.mark.parametrize("case", merge_cases() | layer_loss_cases())
def test_memory_bound_kernels_do_not_spill(facts, case):
    assert_fits(facts[case], architecture_of(case))
