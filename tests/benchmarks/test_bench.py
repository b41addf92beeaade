import json
import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import bench_counters
import gpu_figures
import llamas
import one_sum
import pytest
import results
import torch
from linscore_kernels import Pilot
from shapes import TINY_LLAMA

from linscore.machine import bench, kernel_cases, timing
from linscore.machine.kernel_cases import CASES, accumulate_case, centered_gram_case
from linscore.machine.timing import Rates, Timing, interleaved

CPU = torch.device("cpu")
FACTS = {"device": "NVIDIA H200", "driver": "580.1", "date": "2026-11-22 10:00 UTC", "commit": "abc"}


def test_the_floor_is_the_slower_of_computing_and_moving():
    rates = Rates(matrix=600e12, copy=4e12)
    assert timing.floor(3e12, 4e9, rates) == 5e-3  # 3 TFLOP at 600 TFLOP/s; moving takes 1 ms
    assert timing.floor(3e9, 4e9, rates) == 1e-3


def test_the_work_of_the_gram_products_is_3d2_per_token_and_three_times_that_where_floats_are_split():
    assert accumulate_case(16, 100, torch.float32, CPU).flop == 3 * 16**2 * 100
    case = CASES[0](16, 100, torch.bfloat16, CPU)
    assert case.flop == 3 * 16**2 * 100
    assert case.moved == 2 * 100 * 16 * 4 + 1.5 * 16 * 32 * 8  # float32 operands; float64 sums, 3/4 read and written


def test_every_round_times_ours_and_then_each_peer():
    calls = []
    timing = interleaved(
        lambda: calls.append("ours"),
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        rounds=2,
        iterations=2,
    )
    assert calls[-12:] == ["ours", "ours", "a", "a", "b", "b"] * 2
    assert len(timing.ours) == len(timing.peers["a"]) == len(timing.peers["b"]) == 2


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    timing = Timing([1.0, 2.0, 4.0], {"peer": [3.0, 4.0, 4.0]}, {})
    assert (timing.median, timing.peer_median("peer"), timing.ratio("peer")) == (2.0, 4.0, 2.0)


def test_a_peer_that_cannot_run_is_left_out_and_says_why():
    def broken() -> None:
        raise RuntimeError("no compiler")

    timing = interleaved(lambda: None, {"broken": broken, "sound": lambda: None}, rounds=1, iterations=1)
    assert list(timing.peers) == ["sound"]
    assert timing.missing == {"broken": "RuntimeError: no compiler"}


def test_calls_fill_a_sample():
    assert timing.calls_per_sample(timing.SAMPLE_SECONDS / 40) == 40
    assert timing.calls_per_sample(10.0) == 1


def test_the_kernel_table_has_every_kernel_with_floor_and_peer(monkeypatch):
    monkeypatch.setattr(timing, "SIDES", {"cpu": (64,)})
    monkeypatch.setattr(timing, "COPY_BYTES", {"cpu": 1 << 16})
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 1e-4)
    timing.matrix_rate.cache_clear()
    timing.copy_rate.cache_clear()
    rows = bench.kernel_table(32, 200, torch.bfloat16, "cpu")
    timing.matrix_rate.cache_clear()
    timing.copy_rate.cache_clear()
    assert [row.kernel for row in rows] == ["gram", "gram, exact", "token_stats", "residual_norms"]
    assert all(row.seconds > 0 and row.floor > 0 and row.peer_seconds > 0 for row in rows)
    assert bench.rendered(rows, "kernels").row_count == 4


def test_the_formulas_that_peers_compute_are_those_of_the_kernels():
    case = centered_gram_case(24, 300, torch.float32, CPU)
    ours, (c_xx, c_xy) = case.ours(), case.peers["the formula in float32"]()
    assert torch.allclose(ours.c_xx.float(), c_xx, atol=1e-6)
    assert torch.allclose(ours.c_xy.float(), c_xy, atol=1e-6)
    case = CASES[3](24, 300, torch.float32, CPU)
    assert torch.allclose(case.ours().float(), case.peers["op by op"](), rtol=1e-4)


def test_symmetric_products_of_others_are_peers_as_pairs_where_they_are_installed(monkeypatch):
    def gemm_symmetric_out(a, b, out):
        out.copy_(a @ b)

    calls = {"quack.gemm_interface": {"gemm_symmetric_out": gemm_symmetric_out}}
    calls |= {"flash_muon.matmul_transpose_triton": {"matmul_transpose": lambda x: x @ x.T}}
    for module, names in calls.items():
        package = module.partition(".")[0]
        for name in (package, module):
            monkeypatch.setitem(sys.modules, name, SimpleNamespace(__spec__=ModuleSpec(name, None), __path__=[]))
        vars(sys.modules[module]).update(names)
    x, delta = torch.randn(2, 30, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    peers = kernel_cases._symmetric(x, delta)
    assert list(peers) == ["quack", "flash_muon"]
    for pair in peers.values():
        for got, true in zip(pair(), (x.T @ x, x.T @ delta), strict=True):
            assert torch.equal(got, true)
    assert not kernel_cases._symmetric(x.float(), delta.float())
    monkeypatch.setattr(kernel_cases, "find_spec", lambda _: None)
    assert not kernel_cases._symmetric(x, delta)


def fake_item(**benchmark):
    item = SimpleNamespace(module=SimpleNamespace(GROUP="kernels"), name="test_gram[64]", funcargs={})
    if benchmark:
        item.funcargs["benchmark"] = SimpleNamespace(group="gram", **benchmark)
    return item


def fake_report(outcome="passed", properties=()):
    return SimpleNamespace(
        outcome=outcome,
        skipped=outcome == "skipped",
        failed=outcome == "failed",
        user_properties=properties,
        longrepr=("file.py", 1, f"Skipped: {results.NO_TIME}"),
    )


def test_results_grow_row_by_row_and_every_state_is_whole(tmp_path):
    path = tmp_path / f"{results.file_name(FACTS['device'])}.json"
    results.start(path, FACTS)
    peers = {"x.T @ x": {"median_s": 6e-3, "ratio": 1.2}}
    info = {
        "shape": "d = 64",
        "dtype": "bfloat16",
        "peers": peers,
        "floor_s": 4e-3,
        "share": 0.8,
        "figures": {"n": 2.5},
    }
    stats = SimpleNamespace(stats=SimpleNamespace(data=[5e-3], median=5e-3, rounds=7))
    results.add(path, results.row_of(fake_item(stats=stats, extra_info=info), fake_report(), None))
    results.add(path, results.row_of(fake_item(), fake_report("skipped"), None))
    excinfo = SimpleNamespace(exconly=lambda: "AssertionError: too\nlarge")
    failed = results.row_of(fake_item(), fake_report("failed", [("error", 2e-5)]), SimpleNamespace(excinfo=excinfo))
    results.add(path, failed)
    assert path.name == "nvidia-h200.json"
    assert [row["status"] for row in json.loads(path.read_text())["rows"]] == ["passed", "skipped", "failed"]
    text = path.with_suffix(".md").read_text()
    assert "- driver: 580.1" in text
    assert "| d = 64 | bfloat16 | 5 ms | 4 ms | 80% | 7 | 6 ms, 1.20× |" in text
    assert "- d = 64: n 2.5" in text
    assert "| gram[64] | skipped: the time is used up |  |" in text
    assert "| gram[64] | failed: AssertionError: too large | error 2.000e-05 |" in text
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".md"]


def test_what_was_expected_stands_beside_what_was_measured():
    row = {"group": "gram", "dtype": "bfloat16", "median_s": 6e-3, "rounds": 7}
    rows = [
        {**row, "name": "d = 64", "expected_s": 4e-3},
        {**row, "name": "d = 32"},
        {"group": "gram", "name": "d = 8"},
    ]
    rows[2]["status"] = "failed"
    table = results.tables([row | {"status": row.get("status", "passed")} for row in rows])
    assert "|  | dtype | linscore | expected | floor | share of floor | rounds |" in table
    assert "| d = 64 | bfloat16 | 6 ms | 4 ms, took 1.50× |  |  | 7 |" in table
    assert "| d = 32 | bfloat16 | 6 ms |  |  |  | 7 |" in table
    assert "| d = 8 |  | failed |  |  |  |  |" in table


def test_facts_name_device_and_versions_but_not_the_machine():
    facts = results.facts()
    assert {"device", "python", "torch", "transformers", "linscore", "date", "commit"} <= set(facts)
    assert __import__("platform").node() not in json.dumps(facts).split('"')


def test_the_decoder_is_built_in_its_dtype_and_scored_in_batches_of_one_fold():
    model, text = llamas.build(TINY_LLAMA, torch.bfloat16, blocks=2), llamas.batches(TINY_LLAMA)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert all(len(batch["folds"].unique()) == 1 for batch in text)
    moments = llamas.collect(model, text)
    assert sorted(moments) == ["block.0", "block.1", "state.2"]
    assert sum(moments["block.0"].rows(fold) for fold in range(2)) == TINY_LLAMA.tokens


def test_the_gpu_part_of_the_whole_job_runs_on_moments_from_anywhere():
    model, text = llamas.build(TINY_LLAMA, torch.float32), llamas.batches(TINY_LLAMA)
    assert gpu_figures.equal_bits(model, text) == {"two runs equal in every bit": True}
    assert gpu_figures.solves(model, text, TINY_LLAMA)["blocks solved"] == TINY_LLAMA.blocks


def test_sinks_are_heavy_rows_of_most_blocks_in_every_batch():
    model, text = llamas.build(TINY_LLAMA, torch.bfloat16), llamas.batches(TINY_LLAMA)
    assert not any(moments.heavy_rows for moments in llamas.collect(model, text).values())
    llamas.add_sinks(model, text)
    for batch in text:
        moments = llamas.collect(model, [batch])
        heavy = [moments[f"block.{index}"].heavy_rows for index in range(TINY_LLAMA.blocks)]
        assert heavy == [int((batch["input_ids"] == llamas.SINK).sum())] * TINY_LLAMA.blocks


@pytest.mark.slow
def test_a_long_sum_is_one_accumulator(monkeypatch):
    triton = pytest.importorskip("linscore_kernels.second_moments.triton")
    x = torch.rand(2048, 64).add_(0.5).half()
    operands = triton.token_stats(x, x, delta_given=True, pilot=Pilot.choose(x, None, x)).operands
    second, by_itself = (torch.zeros(64, 128, dtype=torch.float64) for _ in range(2))
    triton.gram(operands, by_itself)
    monkeypatch.delattr("linscore_kernels.second_moments.gram_kernel.launch_merge")  # of partial sums, as above
    one_sum.in_one_sum(operands, second, "triton")
    exact = operands[0].double().T @ operands[0].double()
    for sums in (second, by_itself):
        assert (sums[:, :64].triu() - exact.triu()).norm() < 1e-5 * exact.norm()


def test_counters_are_read_off_ncus_table_of_details():
    said = """==PROF== Connected to process 7
"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"
"0","_gram_kernel","GPU Speed Of Light Throughput","Duration","us","712.3"
"0","_gram_kernel","GPU Speed Of Light Throughput","Elapsed Cycles","cycle","1,234,567"
"0","_gram_kernel","Compute Workload Analysis","SM Busy","%","81.20"
"""
    assert bench_counters.counters(said.splitlines()) == {"Duration": "712.3 us", "SM Busy": "81.20 %"}


@pytest.mark.slow
def test_growth_is_drawn_even_where_some_of_it_was_not_measured(tmp_path):
    pytest.importorskip("matplotlib")
    from plot import draw

    row = {"dtype": "bfloat16", "median_s": 2e-3, "floor_s": 1e-3, "peers": {"x.T @ x": {"median_s": 3e-3}}, "d": 64}
    rows = [{"group": "gram", "n": 100, **row}, {"group": "gram", "n": 100, **row, "d": 128, "peers": {}}]
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({"facts": FACTS, "rows": rows}))
    assert draw(path).read_bytes().startswith(b"\x89PNG")
