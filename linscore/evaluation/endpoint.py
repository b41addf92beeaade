"""Asking a model behind an OpenAI-compatible endpoint, with the standard library alone.

The key goes to that endpoint and nowhere else: redirections are refused, and no message shows it.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from linscore.errors import LinscoreError, reason

KEY = "LINSCORE_JUDGE_KEY"  # environment variable
TRIES = 3
SECONDS = 120.0  # until an answer that does not come is given up
LARGEST = 1 << 20  # bytes of an answer
LONGEST = 200  # characters of a refusal that are shown


class _Stay(HTTPRedirectHandler):
    """A redirection is an error: it would take the key along."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


class Endpoint:
    """A model that answers.

    Args:
        url: up to /chat/completions, which is put behind it.
        model: its name there.
        key: sent as a bearer token; None: none is sent.
        seconds: that an answer may take.
        wait: called with the seconds before another try.

    Raises:
        LinscoreError: the address is none, or holds what would be shown; the key cannot be sent.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None = None,
        *,
        seconds: float = SECONDS,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        _check(url, key)
        self._url, self._model, self._key, self._seconds, self._wait = url.rstrip("/"), model, key, seconds, wait
        self._opener = build_opener(_Stay)

    def ask(self, text: str) -> str:
        """What the model answers; where the endpoint is busy or does not answer, it is asked again twice.

        Raises:
            LinscoreError: what came is no answer.
        """
        for left in reversed(range(TRIES)):
            try:
                return self._answer(self._sent(text))
            except HTTPError as error:
                if left == 0 or (error.code != 429 and error.code < 500):
                    raise LinscoreError(self._refusal(error)) from None
            except (OSError, http.client.HTTPException) as error:
                if left == 0:
                    why = reason(error.reason if isinstance(error, URLError) else error)  # type: ignore[arg-type]
                    raise LinscoreError(f"no answer from {self._url} ({why}): check `endpoint`") from None
            self._wait(2.0 ** (TRIES - left))
        raise AssertionError("the last try returns or raises")

    def _sent(self, text: str) -> bytes:
        body = json.dumps({"model": self._model, "messages": [{"role": "user", "content": text}]}).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "linscore"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = Request(f"{self._url}/chat/completions", body, headers, method="POST")
        with self._opener.open(request, timeout=self._seconds) as response:
            found: bytes = response.read(LARGEST)
        return found

    def _answer(self, body: bytes) -> str:
        try:
            content = json.loads(body)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            content = None
        if not isinstance(content, str):
            begins = self._shown(body[:60].decode(errors="replace"))
            raise LinscoreError(
                f"{self._url} answers no chat completion (it begins with {begins!r}): check `endpoint`, which often "
                "ends in /v1"
            )
        return content

    def _refusal(self, error: HTTPError) -> str:
        try:
            body = error.read(1000)
        except (OSError, http.client.HTTPException):  # it breaks off
            body = b""
        says = self._shown(body.decode(errors="replace"))[:LONGEST]
        what = {
            401: f"check the key in {KEY}",
            403: f"check the key in {KEY}",
            404: "check `endpoint`, which often ends in /v1, and `judge`",
            429: "ask later, or fewer `stories`",
        }.get(error.code, "check `endpoint` and `judge`")
        return f"{self._url} answers {error.code} ({says}): {what}"

    def _shown(self, text: str) -> str:
        """Words of the endpoint in one line, without the key."""
        line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
        return line if self._key is None else line.replace(self._key, "…")


def _check(url: str, key: str | None) -> None:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool((parts.hostname or "").encode("idna")) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or not url.isprintable() or " " in url:
        raise LinscoreError("`endpoint` is no address: give one such as http://localhost:8000/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise LinscoreError(
            f"`endpoint` holds more than an address: leave out name, password and query; a key is {KEY}"
        )
    if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
        raise LinscoreError(f"{KEY} holds no key: it is empty, or has spaces, line breaks or letters beyond ASCII")
