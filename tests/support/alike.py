"""Results that are the same but for the order of float64 sums."""

from typing import Any

import pytest


def assert_alike(found: Any, wanted: Any, within: float = 1e-9, at: str = "") -> None:
    """The same keys, the same words and whole numbers, and every float within 1e-9, absolutely or relatively."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), at
        for key, one in wanted.items():
            assert_alike(found[key], one, within, f"{at}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), at
        for number, (mine, one) in enumerate(zip(found, wanted, strict=True)):
            assert_alike(mine, one, within, f"{at}.{number}")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=within, abs=within, nan_ok=True), at
    else:
        assert found == wanted, at
