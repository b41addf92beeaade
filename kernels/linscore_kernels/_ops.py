"""The namespace that the operators are registered in.

A build for the Hub has this file with a namespace of its own, made from what is in it, so that torch keeps two builds
that are loaded at once apart. Names are those of the file that kernel-builder writes.
"""

from __future__ import annotations

_OPS_NAME = "linscore"


def add_op_namespace_prefix(op_name: str) -> str:
    """The operator's name with its namespace."""
    return f"{_OPS_NAME}::{op_name}"
