"""Triton's interpreter without what it does over and over, which is half of the time of a kernel's test.

Nothing that a kernel computes changes: what is left out is looked up again at each call, or computed and thrown away.
"""

import functools
import inspect
from typing import Any

from triton.language import core
from triton.runtime import interpreter


def hurry() -> None:
    """Let the interpreter of this process look things up once."""
    if not hasattr(interpreter, "_LangPatchScope"):  # another Triton's: it takes its time
        return
    interpreter._patch_builtin, interpreter._patch_lang = _patch_builtin, _patch_lang
    interpreter._get_np_dtype = _get_np_dtype
    core.block_type.with_element_ty = lambda self, scalar: _block_type(scalar, self.shape)
    interpreter.InterpreterBuilder.get_block_ty = lambda _, *of: _block_type(*of)
    # Sums of integers, done a second time in int64 and compared for an assertion that is made with `debug` alone.
    if not interpreter.interpreter_builder.options.debug:
        interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)


@functools.cache
def _builtins_in(package: Any) -> list[str]:
    return [name for name, member in inspect.getmembers(package) if core.is_builtin(member)]


def _patch_builtin(package: Any, builder: Any, scope: Any) -> None:
    for name in _builtins_in(package):
        if core.is_builtin(member := getattr(package, name)):  # not where a calling kernel has replaced it
            interpreter._patch_attr(package, name, member, builder, scope)


@functools.cache
def _languages_of(kernel: Any) -> list[Any]:
    return [one for one in kernel.__globals__.values() if one is interpreter.tl or one is core]


def _patch_lang(kernel: Any, patch: Any = interpreter._patch_lang) -> Any:
    """What a kernel has replaced is not replaced again for the functions that it calls."""
    replaced = all(one.static_print is print for one in _languages_of(kernel))
    return interpreter._LangPatchScope() if replaced else patch(kernel)


_of_scalar = functools.cache(interpreter._get_np_dtype)


def _get_np_dtype(dtype: Any, of_pointer: Any = interpreter._get_np_dtype) -> Any:
    scalar = dtype.scalar
    return of_pointer(scalar) if isinstance(scalar, core.pointer_type) else _of_scalar(scalar)


_types: dict[tuple[Any, ...], core.block_type] = {}


def _block_type(scalar: Any, shape: Any) -> core.block_type:
    """Types of tiles are checked once; those of pointers are made anew at each use, and not kept."""
    if type(scalar) is not core.dtype:
        return core.block_type(scalar, shape)
    key = scalar.name, *shape
    if key not in _types:
        _types[key] = core.block_type(scalar, shape)
    return _types[key]
