"""What the pictures of results share."""

from __future__ import annotations


def ticks(count: int) -> list[int]:
    """At most 13 whole numbers of 0 to `count` − 1."""
    return list(range(0, count, -(-count // 13)))
