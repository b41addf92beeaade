"""What a page shows is compared with what is printed: not by every digit, but a wrong figure is noticed."""

import pytest
from pages import alike

SHOWN = "block 2 (0.0120)\n│ 1 │ 12,345 │ ███▍ │\n..."


@pytest.mark.parametrize(
    ("printed", "same"),
    [
        ("block 2 (0.0121)\n│ 1 │ 12,345 │ █████ │\nmore", True),
        ("block  2 (0.0120)\n│ 1 │ 12,345 │  │", True),
        ("block 4 (0.0120)\n│ 1 │ 12,345 │ ███▍ │", False),
        ("block 2 (0.0150)\n│ 1 │ 12,345 │ ███▍ │", False),
        ("block 2 (0.0120)\n│ 1 │ 12,346 │ ███▍ │", False),
        ("warning\nblock 2 (0.0120)\n│ 1 │ 12,345 │ ███▍ │", False),
    ],
)
def test_what_is_alike(printed, same):
    assert alike(SHOWN, printed) == same
