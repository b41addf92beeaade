"""Whether a Gluon kernel may be used: Triton's interpreter runs none, so the GPU that is to use one checks it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from dataclasses import asdict, replace
from functools import cache

import torch
from torch import Tensor

from ..launching import capability
from ..tuning.parameters import Launch
from .gram_kernel import launch_gram

APART = 90.0  # seconds for importing torch and compiling four kernels
FEATURES, TOKENS = (
    2040,
    2304,
)  # some 200 tiles, of which a program gets several, and tokens that three do not share alike


def trusted(launch: Launch, operands: Tensor) -> Launch:
    """`launch`, or with a warning the same with the plain kernel, where it names Gluon's and that fails here."""
    if launch.kernel != "gluon":
        return launch
    fault = fault_of(launch, operands.device, operands.dtype)
    if not fault:
        return launch
    warnings.warn(f"the Gluon kernel is not used, the plain one is: {fault}", stacklevel=2)
    return replace(launch, kernel="tile")


@cache
def fault_apart(launch: Launch, device: torch.device, seconds: float = APART) -> str:
    """`fault_of` in bfloat16 by a process of its own: a kernel that hangs or spoils CUDA costs that one alone."""
    command = [sys.executable, "-m", __name__, json.dumps(asdict(launch)), str(device)]
    path = os.pathsep.join(filter(None, sys.path))
    try:
        run = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {seconds:.0f} s"
    return run.stdout.strip() if run.returncode == 0 else f"{(run.stderr.splitlines() or [''])[-1]} (tried apart)"


@cache
def fault_of(launch: Launch, device: torch.device, dtype: torch.dtype) -> str:
    """What is wrong with it, if anything is: small integers, whose sums are exact, give what the plain kernel gives."""
    if capability(torch.empty(0, device=device)) // 10 not in (9, 10):
        return "there is none for GPUs but those of compute capability 9 and 10"
    generator = torch.Generator(device).manual_seed(0)
    operands = torch.randint(-4, 5, (2, TOKENS, FEATURES), generator=generator, device=device).to(dtype)
    for splits in (1, 3):
        plain, found = (torch.zeros(FEATURES, 2 * FEATURES, dtype=torch.float64, device=device) for _ in range(2))
        launch_gram(operands, plain, replace(launch, kernel="tile"), splits)
        try:
            launch_gram(operands, found, launch, splits)
        except Exception as problem:  # Triton's versions, ptxas and the driver raise many kinds
            return f"{type(problem).__name__}: {problem}"
        if not torch.equal(plain, found):
            return "its sums of integers differ from the plain kernel's"
    return ""


if __name__ == "__main__":
    print(fault_of(Launch(**json.loads(sys.argv[1])), torch.device(sys.argv[2]), torch.bfloat16))
