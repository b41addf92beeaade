"""Jobs asked as the command line asks them: by single options, which this puts into the classes they belong to."""

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any


def asked(job: Callable[..., Any]) -> Callable[..., Any]:
    """`job` with the fields of its classes of options as keyword arguments of their own."""
    parameters = inspect.signature(job).parameters
    hints = typing.get_type_hints(job)

    @functools.wraps(job)
    def flat(*args: Any, **given: Any) -> Any:
        classes = {}
        for name, parameter in parameters.items():
            kind = next((k for k in (hints[name], *typing.get_args(hints[name])) if is_dataclass(k)), None)
            if kind is not None and not is_dataclass(given.get(name)):
                start = parameter.default if is_dataclass(parameter.default) else kind()
                mine = {f.name: given.pop(f.name) for f in fields(kind) if f.metadata and f.name in given}
                classes[name] = replace(start, **mine)
        return job(*args, **given, **classes)

    return flat
