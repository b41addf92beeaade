"""moments.safetensors: all moments of a run in one file, with the facts needed to use or extend them.

Keys are `NAME.light.FOLD.FIELD` and `NAME.heavy.FOLD.FIELD` for the cells and `NAME.pilot.FIELD` for the pilot, NAME
being what `Collector.moments` calls it; everything is float64 but the pilot's float32. Beside the head stands a SHA-256
of each NAME's tensors, which files of version 0.1.0 lack.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from linscore.errors import LinscoreError, reason
from linscore.files.json_file import build, parse_json
from linscore.files.places import read_places, written_places
from linscore.files.whole import whole_file
from linscore.statistics.cell import ordinary_tensors
from linscore.statistics.moments import Moments
from linscore.statistics.moments_head import FORMAT, Head, Shape, Stored
from linscore.statistics.moments_state import facts_of, fill, tensors_of

DIGESTS = "digests"


def save_moments(path: str | Path, moments: Mapping[str, Moments], **facts: Any) -> None:
    """Write `moments` and JSON-able `facts` (model, tokens, …); an older file is replaced only by a whole new one.

    Examples:
        >>> linscore.save_moments("moments.safetensors", {"mine": moments}, tokens=600)
        >>> linscore.load_moments("moments.safetensors")[1]
        {'tokens': 600}
    """
    with whole_file(path) as new:
        write_moments(new, moments, **facts)


def write_moments(path: Path, moments: Mapping[str, Moments], **facts: Any) -> str:
    """As `save_moments`, to a file that is made whole with others; the digest of all moments."""
    tensors: dict[str, Tensor] = {}
    heads, digests = {}, {}
    for name, one in moments.items():
        found = {f"{name}.{key}": value.cpu().contiguous() for key, value in tensors_of(one).items()}
        heads[name] = facts_of(one)
        tensors, digests[name] = tensors | found, _digest(found)
    head = {"format": FORMAT, "facts": written_places(facts, path.parent), "moments": heads}
    save_file(tensors, path, {"linscore": json.dumps(head), DIGESTS: json.dumps(digests)})
    return _overall(digests)


@ordinary_tensors()
def load_moments(path: str | Path, names: Collection[str] | None = None) -> tuple[dict[str, Moments], dict[str, Any]]:
    """Read a file of `save_moments`: the moments by name, or some of them, on the CPU, and the facts.

    Raises:
        LinscoreError: when it is missing, damaged, or not such a file.

    Examples:
        >>> linscore.save_moments("moments.safetensors", {"mine": moments}, text="a talk")
        >>> kept, facts = linscore.load_moments("moments.safetensors")
        >>> kept["mine"].d, facts
        (16, {'text': 'a talk'})
    """
    with _opened(path) as (file, head):
        wanted = {name: one for name, one in head.moments.items() if names is None or name in names}
        found = {}
        for name, one in wanted.items():
            keys = [key for key in file.keys() if head.place(key)[0] == name]  # noqa: SIM118
            tensors = {key: file.get_tensor(key) for key in keys}
            if head.digests and _digest(tensors) != head.digests.get(name):
                raise ValueError(f"{name} is not what was written")
            found[name] = _moments(name, one, {key.removeprefix(f"{name}."): value for key, value in tensors.items()})
        return found, head.facts


def stored_names(path: str | Path) -> set[str]:
    """The names of the moments in a file, from its head alone.

    Raises:
        LinscoreError: as `load_moments`.
    """
    with _opened(path) as (_, head):
        return set(head.moments)


def check_moments(path: str | Path) -> tuple[dict[str, Any], str | None]:
    """The facts of a moments file and the digest of all moments (None: of version 0.1.0), from its head alone.

    The head also tells a file that was cut short.

    Raises:
        LinscoreError: as `load_moments`.
    """
    with _opened(path) as (_, head):
        return head.facts, _overall(head.digests) if head.digests else None


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, Head]]:
    again = "score the model again"
    if not Path(path).is_file():
        raise LinscoreError(f"{path} is not there: {again}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            content = read_places(parse_json(metadata["linscore"]), Path(path).parent)
            if content["format"] != FORMAT:
                raise LinscoreError(f"{path} has format {content['format']}, this linscore reads {FORMAT}: {again}")
            digests = parse_json(metadata.get(DIGESTS, "{}"))
            head: Head = build(Head, content | {DIGESTS: digests})
            head.check({key: _stored(file.get_slice(key)) for key in file.keys()})  # noqa: SIM118
            yield file, head
    except LinscoreError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise LinscoreError(f"{path} is damaged or no moments file ({reason(error)}): {again}") from error


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors on the CPU with their names."""
    found = hashlib.sha256()
    for key in sorted(tensors):
        found.update(key.encode())
        found.update(tensors[key].reshape(-1).numpy().data)
    return found.hexdigest()


def _overall(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()


def _stored(part: Any) -> Stored:
    return Stored(part.get_dtype(), tuple(part.get_shape()))


def _moments(name: str, shape: Shape, tensors: dict[str, Tensor]) -> Moments:
    """The moments of tensors that `Head.check` has seen, by their names within these moments."""
    moments = Moments(shape.d, shape.width_delta, folds=shape.folds, precision=shape.precision)
    try:
        fill(moments, tensors, shape.limits)
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from error
    return moments
