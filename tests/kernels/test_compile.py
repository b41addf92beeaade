"""What came out of compiling every kernel for every architecture in the launch table, without a GPU."""

from __future__ import annotations

import pytest
from compiled_kernels import MATRIX_INSTRUCTION, SHARED, TENSOR_MEMORY, assert_fits

pytest.importorskip("triton")

from compile_cases import (
    ARCHITECTURES,
    LAYER_LOSS_ARCHITECTURES,
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
    assert {architecture_of(case) for case in layer_loss_cases()} == set(LAYER_LOSS_ARCHITECTURES)


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


@pytest.mark.parametrize(
    ("kind", "read", "written"), [("distances-walk", 9, 0), ("gradients-walk", 11, 9), ("gradients-tap", 4, 1)]
)
def test_each_state_of_a_walk_is_read_once_and_each_gradient_written_once(facts, kind, read, written):
    """By counting instructions: a row of 4,096 bfloat16 is two vectors of 16 bytes for each of 256 threads."""
    found = facts[f"layer_loss-{kind}-90"]
    assert (found["threads"], found["vectors_read"], found["vectors_written"]) == (256, 2 * read, 2 * written)
