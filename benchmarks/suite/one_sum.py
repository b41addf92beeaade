"""The Gram products with one accumulator for all tokens, the longest sum that there can be."""

from linscore_kernels import choose_backend, gram
from torch import Tensor


def in_one_sum(operands: Tensor, second: Tensor, backend: str | None = None) -> None:
    """`gram`, which by itself would share the tokens of so few features out among many programs."""
    if choose_backend(operands.device, backend) == "eager":
        gram(operands, second)
        return
    from linscore_kernels.launching import capability
    from linscore_kernels.second_moments.gram_kernel import launch_gram
    from linscore_kernels.tuning.parameters import launch_for

    launch = launch_for(capability(operands), len(second), "split" if len(operands) == 4 else "single")
    launch_gram(operands, second, launch, splits=1)
