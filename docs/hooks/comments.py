"""The comments of a class's fields are its `Attributes:`; `b: Tensor  # [d, e] float64` says all there is to say."""

from __future__ import annotations

import ast
from typing import Any

from griffe import Attribute, Class, Docstring, Extension, Module, Object


class Comments(Extension):
    """Puts the comments of fields, those of its bases too, into the docstring of a class that lists none."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, str] = {}  # of each field, by its path

    def on_attribute_instance(self, *, node: Any, attr: Attribute, **_kwargs: Any) -> None:
        """Look at the line that the field ends in."""
        if isinstance(attr.parent, Class) and isinstance(node, ast.AnnAssign):
            line = attr.lines_collection[attr.filepath][node.end_lineno - 1].encode()
            comment = line[node.end_col_offset :].decode().strip()
            if comment.startswith("#"):
                self._said[attr.path] = comment.removeprefix("#").strip()

    def on_package(self, *, pkg: Module, **_kwargs: Any) -> None:
        """Once all bases are known."""
        self._walk(pkg)

    def _walk(self, found: Object) -> None:
        for member in found.members.values():
            if isinstance(member, Class | Module):
                self._walk(member)
        if isinstance(found, Class) and found.docstring and "\nAttributes:" not in found.docstring.value:
            paths = [one.path for base in (*reversed(found.mro()), found) for one in base.attributes.values()]
            lines = [f"    {path.rpartition('.')[2]}: {self._said[path]}" for path in paths if path in self._said]
            if lines:
                text, examples, rest = found.docstring.value.partition("\nExamples:\n")
                text = "\n".join([text.rstrip(), "", "Attributes:", *lines, ""])
                found.docstring = Docstring(text + examples + rest, parent=found)
