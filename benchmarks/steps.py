"""What is measured, in which order, and how long each step may take: one process a step (docs/performance.md).

On a GPU the order answers: is it right, where does the time go, how fast. What may hang or spoil its process, and what
takes long to compile, comes last, with the time that is left.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A process of pytest, which is ended with its children when its time is over."""

    name: str
    tests: tuple[str, ...]  # files of suite/, or tests in them
    gpu: float  # seconds at most
    cpu: float | None = None  # None: only a GPU can do it
    marked: str = ""  # pytest's -m

    def seconds(self, device: str) -> float | None:
        """How long it may take there; None where it cannot be done."""
        return self.gpu if device == "cuda" else self.cpu


def of_kernels(*names: str) -> tuple[str, ...]:
    """Tests of bench_kernels.py."""
    return tuple(f"bench_kernels.py::test_{name}" for name in names)


CHECKS = Step("rates and checks", ("bench_rates.py", "check_kernels.py"), 45, 50, "not further")
PRODUCTS = Step("gram and accumulate", of_kernels("gram", "accumulate"), 60, 90)
LARGER = Step("the larger decoder", ("bench_score.py::test_the_larger_decoder",), 80, 150)
TUNING = Step("tuning", ("bench_tuning.py",), 75)
COUNTERS = Step("one launch under ncu", ("bench_counters.py",), 25)
TOKENS = Step("token_stats, residual_norms, exact", of_kernels("token_stats", "residual_norms", "exact_gram"), 45, 50)
SMALLER = Step(
    "the smaller decoder", ("bench_score.py::test_the_smaller_decoder", "bench_score.py::test_solves"), 45, 90
)
TRAINING = Step(
    "training step and layer loss",
    ("bench_training.py", "bench_layer_loss.py::test_forward_and_backward"),
    40,
    120,
    "not checkpointing",
)
GROWTH = Step("growth", ("bench_growth.py",), 35, 150)
COMPILED = Step(
    "torch.compile, centered_gram",
    (
        *of_kernels("torch_compile", "centered_gram", "gram_of_float32_states"),
        "bench_layer_loss.py::test_torch_compile",
    ),
    60,
    90,
)
EMULATED = Step("cuBLAS's emulation, batched solves", ("bench_emulation.py", "bench_score.py::test_batched_solves"), 60)
PAIR = Step("both scores of a pair", ("bench_pair.py",), 30, 100)
INPUTS = Step("what a caller has", ("bench_inputs.py",), 20, 35)
SVDS = Step("hidden states and their SVDs", ("bench_score.py::test_all_hidden_states_and_their_svds",), 40, 40)
CHECKPOINTED = Step("training step with checkpointing", ("bench_training.py",), 40, 120, "checkpointing")
FURTHER = Step("checks of further shapes", ("check_kernels.py",), 60, 60, "further")

_ON_GPU = CHECKS, PRODUCTS, LARGER, TUNING, COUNTERS, TOKENS, SMALLER, TRAINING, GROWTH
_ON_CPU = CHECKS, PAIR, LARGER, SMALLER, SVDS, PRODUCTS, GROWTH, TRAINING, TOKENS, TUNING, COUNTERS, EMULATED
STEPS = {  # what matters most there comes first
    "cuda": (*_ON_GPU, COMPILED, EMULATED, PAIR, SVDS, INPUTS, CHECKPOINTED, FURTHER),
    "cpu": (*_ON_CPU, INPUTS, COMPILED, CHECKPOINTED, FURTHER),
}
