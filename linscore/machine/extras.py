"""What only some jobs need: installed with an extra of linscore, and asked for before such a job begins."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from linscore.errors import LinscoreError

# The extra, and the modules that it installs; pyproject.toml says the same of packages.
EXTRAS = {
    "datasets": ("datasets", "pyarrow"),
    "plots": ("matplotlib",),
    "probe": ("sklearn", "matplotlib"),
    "train": ("accelerate", "sklearn", "matplotlib"),
    "tasks": ("lm_eval", "accelerate"),
    "large": ("accelerate",),
    "torchmetrics": ("torchmetrics",),
    "html": ("altair", "vl_convert", "jinja2", "pandas"),
    "triton": ("triton",),
}
_PACKAGES = {
    "sklearn": "scikit-learn",
    "lm_eval": "lm-eval",
    "vl_convert": "vl-convert-python",
}  # that are not called as their module


def need(extra: str, what: str, *modules: str) -> None:
    """Make sure that `modules` are there before work begins that would end without them.

    Args:
        extra: of linscore, that installs them.
        what: needs them, as the message says it.
        modules: some of those of the extra.

    Raises:
        LinscoreError: if one is missing; says what to install.
    """
    gone = missing(modules)
    if gone:
        raise LinscoreError(f"{what} needs {' and '.join(gone)}: {how_to_get(extra)}")


def missing(modules: Sequence[str]) -> list[str]:
    """The packages of those modules that are not installed."""
    return [package(module) for module in modules if find_spec(module) is None]


def package(module: str) -> str:
    """What a module is called where packages are installed from."""
    return _PACKAGES.get(module, module)


def how_to_get(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'linscore[{extra}]'"
