"""Damage to files: seeded, so that every input can be made again from its number."""

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

Damage = Callable[[bytes, random.Random], bytes]
ODD: list[Any] = [None, True, -1, 0, 1.5, 10**9, 2**63, 10**400, 1e308, float("nan"), float("inf")]
ODD += ["", "../x", "/etc/passwd", "\0", "3-1000000000", "\ud800", "é" * 50, [], {}, [[]], {"": {}}]
LINES = (
    b"\n",
    b"\0",
    b"\xff",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"9" * 5000,
    b"*a",
    b"&a",
    b"!!python/none",
    b"1:1",
    b"0b",
)


def cut_short(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def flip_bytes(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 3, 20))):
        if changed:
            changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def put_in(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[:at] + chance.choice(LINES) + content[at + chance.choice((0, 0, 1, 40)) :]


def repeat_a_part(content: bytes, chance: random.Random) -> bytes:
    first, last = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return content[:last] + content[first:last] * chance.choice((1, 2)) + content[last:]


def change_json(content: bytes, chance: random.Random) -> bytes:
    """Other values, keys that are gone or new, of one JSON text or of one of its lines."""
    try:
        found = json.loads(content)
    except ValueError:
        lines = content.split(b"\n")
        at = chance.randrange(len(lines))
        with_change = change_json(lines[at], chance) if lines[at].startswith(b"{") else lines[at]
        return b"\n".join([*lines[:at], with_change, *lines[at + 1 :]])
    for _ in range(chance.choice((1, 1, 2))):
        _change(found, chance)
    return json.dumps(found).encode("utf-8")


def change_header(content: bytes, chance: random.Random) -> bytes:
    """Lies in the header of a safetensors file: its length, its values, and those of the JSON that it holds."""
    if len(content) < 8:
        return content
    [length] = struct.unpack("<Q", content[:8])
    if chance.random() < 0.1:
        return struct.pack("<Q", chance.choice((0, 1, length - 1, length + 1, 2**40, 2**63))) + content[8:]
    header = json.loads(content[8 : 8 + length])
    inside = header["__metadata__"]
    if chance.random() < 0.7:
        key = chance.choice(sorted(inside))
        inside[key] = change_json(inside[key].encode(), chance).decode()
    else:
        _change(header, chance)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def _change(found: Any, chance: random.Random) -> None:
    """Change one value somewhere inside."""
    inside: list[Any] = [found]
    for part in inside:
        inside += [one for one in (part.values() if isinstance(part, dict) else part) if isinstance(one, dict | list)]
    part = chance.choice(inside)
    keys = sorted(part) if isinstance(part, dict) else list(range(len(part)))
    if isinstance(part, dict) and (not keys or chance.random() < 0.1):
        part[chance.choice(("", "later", "model", "n"))] = copy.deepcopy(chance.choice(ODD))
    elif keys:
        key = chance.choice(keys)
        if chance.random() < 0.2:
            del part[key]
        else:
            part[key] = copy.deepcopy(chance.choice(ODD))


PLAIN: tuple[Damage, ...] = (cut_short, flip_bytes, put_in, repeat_a_part)
JSON: tuple[Damage, ...] = (*PLAIN, change_json, change_json, change_json)
SAFETENSORS: tuple[Damage, ...] = (cut_short, flip_bytes, change_header, change_header, change_header)
