"""Processes on several machines end together: what ends one ends all, and the first says why, in one line.

Each leaves a beat in the store that they meet in, or a word when it ends. The first looks at all others, the others
look at the first. Who is silent for too long was killed, or its machine was (decisions: Processes end together).
"""

from __future__ import annotations

import _thread
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress

import torch.distributed as dist

from linscore.errors import LinscoreError

__all__ = ["Heartbeat", "meeting_place"]

BEAT = 0.5  # seconds
HUSH = 3.0  # after which a silent process counts as gone, where something has ended already
SILENCE = 30.0  # where nothing else has: a call that holds Python's lock can take some seconds
MEETING = 300.0  # for all to come: machines of a cluster do not start at once
GRACE = 10.0  # for a process to end by itself, after which it is ended where it stands
DONE, ENDED, FAILED = "done", "ended", "failed "  # words of a process that has ended; ENDED: not by its own fault


def meeting_place() -> dist.Store:
    """The store at the place that the launcher's variables name (MASTER_ADDR, MASTER_PORT).

    Raises:
        LinscoreError: when they name none, or nothing answers there.
    """
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise LinscoreError(
            "several processes were started, but MASTER_ADDR and MASTER_PORT do not say where they meet: start them by "
            "torchrun"
        ) from error
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun; else by the first process
    begins = not hosted and os.environ["RANK"] == "0"
    try:
        store = dist.TCPStore(address, port, is_master=begins, wait_for_workers=False, multi_tenant=True)
    except dist.DistError as error:
        raise LinscoreError(f"nothing answers at {address}:{port}, where the processes meet") from error
    return dist.PrefixStore(f"linscore/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


class Heartbeat:
    """Tells the others that this process lives, and ends it with them.

    Args:
        store: what all have in common, a connection of its own.
        number: of this process.
        count: of all.
        say: takes the line that is to be said where the process has to be ended where it stands.
    """

    def __init__(self, store: dist.Store, number: int, count: int, say: Callable[[str], None]) -> None:
        self._store, self._number, self._count, self._say = store, number, count, say
        self._others = [other for other in range(count) if other != number]
        self._hosts: list[str] = []
        self._seen: dict[int, tuple[str, float]] = {}  # the state of another, and when it came to be
        self._why: str | None = None  # what ended another process, and with it this one
        self._over, self._parted = threading.Event(), threading.Event()
        self._answered = time.monotonic()  # by the store
        self._beats = 0

    def meet(self) -> None:
        """Wait until all processes are there; from then on they end together.

        Raises:
            LinscoreError: when some do not come.
        """
        self._beat()
        self._store.set(f"host.{self._number}", socket.gethostname())
        until, names = time.monotonic() + MEETING, [f"host.{number}" for number in range(self._count)]
        while not self._store.check(names):
            if time.monotonic() > until:
                missing = [number for number, name in enumerate(names) if not self._store.check([name])]
                raise LinscoreError(f"processes {missing} have not come in {MEETING:.0f} s: look at their machines")
            time.sleep(BEAT / 5)
        self._hosts = [host.decode() for host in self._store.multi_get(names)]
        for thread in (self._live, self._guard):
            threading.Thread(target=thread, name="heartbeat", daemon=True).start()

    def part(self) -> None:
        """This process has done its work. The first waits for the others, whom it may hold the store for."""
        self._tell(DONE)
        until = time.monotonic() + GRACE
        while self._number == 0 and time.monotonic() < until and any(map(_at_work, self._look().values())):
            time.sleep(BEAT / 5)
        self._parted.set()

    def verdict(self, line: str, *, certain: bool, interrupted: bool) -> tuple[str, bool]:
        """What is to be said of this process's end, which by itself would say `line`, and whether this one says it.

        The others are told, and a moment is given to what they have to tell.

        Args:
            line: of the error that ends it.
            certain: whether that is its own fault and no other's, as what a user can mend is.
            interrupted: whether it is a signal.
        """
        try:
            return self._verdict(line, certain, interrupted)
        except KeyboardInterrupt:  # whoever started the processes ends them by a signal, once
            return self._verdict(line, certain, interrupted)
        finally:
            self._parted.set()

    def _verdict(self, line: str, certain: bool, interrupted: bool) -> tuple[str, bool]:
        self._over.set()
        if not certain:  # behind a signal or a broken connection may be what ended another
            self._why = self._why or self._other_end(HUSH + 2 * BEAT)
        own = self._why is None
        with suppress(dist.DistError):
            self._tell(f"{FAILED}{line}" if own and not interrupted else ENDED)
        if self._number != 0 and self._first_speaks():
            return line, False
        if own:
            return line, True
        after = f"; {line}" if interrupted else ""
        return f"{self._why}{after}", self._number == 0 or self._is_next()

    def _live(self) -> None:
        """The thread: beat, and end this process where another has ended."""
        watched = self._others if self._number == 0 else [0]
        while not self._over.wait(BEAT):
            try:
                self._beat()
            except dist.DistError:
                why: str | None = self._gone(0)
            else:
                why = self._bad_end(watched, SILENCE)
            if why is not None:
                self._end(why)
                return

    def _guard(self) -> None:
        """Another thread, for a machine that is cut off: calls of the store wait for a quarter of an hour then."""
        while not self._parted.wait(BEAT):
            if time.monotonic() - self._answered > SILENCE:
                if self._number == 0 or self._is_next():
                    self._say(f"{self._named(0)}, no longer answers")
                os._exit(2)

    def _end(self, why: str) -> None:
        if self._over.wait(HUSH):  # time to find the same fault by itself, such as a name that is wrong for all
            return
        self._why = why
        _thread.interrupt_main(signal.SIGTERM)
        if not self._over.wait(GRACE):  # it waits for the others in a call that nothing interrupts
            if self._number == 0 or (self._bad_end([0], HUSH) is not None and self._is_next()):
                self._say(why)
            with suppress(dist.DistError):
                self._tell(ENDED)
            os._exit(2)

    def _other_end(self, seconds: float) -> str | None:
        """Why another process has ended, if it has; all that live have so much time to show it."""
        states, until = self._look(), time.monotonic() + seconds
        why = self._bad_end(self._others, HUSH)
        while why is None and time.monotonic() < until and any(map(_at_work, states.values())):
            time.sleep(BEAT / 5)
            states, why = self._look(), self._bad_end(self._others, HUSH)
        return why

    def _first_speaks(self) -> bool:
        """Whether the first process has ended, too, and has said why; after a moment it counts as that."""
        until = time.monotonic() + GRACE
        while time.monotonic() < until:
            state = self._look().get(0, "")
            if not _at_work(state):
                return state != ""
            if self._silent(0) > HUSH:
                return False
            time.sleep(BEAT / 5)
        return True

    def _bad_end(self, watched: Collection[int], silence: float) -> str | None:
        """How one of the others has ended: by a fault that it has told, or silently."""
        states = self._look()
        for other in watched:
            state = states.get(other, "")
            if state.startswith(FAILED):
                return f"{self._named(other)}: {state.removeprefix(FAILED)}"
        silent = (other for other in watched if _at_work(states.get(other, "0")) and self._silent(other) > silence)
        return next(map(self._gone, silent), None)

    def _look(self) -> dict[int, str]:
        """The states of the others; none where the store is gone."""
        try:
            found = self._store.multi_get([f"state.{other}" for other in self._others])
        except dist.DistError:
            return {}
        self._answered = time.monotonic()
        states = {other: state.decode() for other, state in zip(self._others, found, strict=True)}
        for other, state in states.items():
            if self._seen.get(other, ("", 0.0))[0] != state:
                self._seen[other] = state, time.monotonic()
        return states

    def _silent(self, other: int) -> float:
        """For how many seconds there was no new state."""
        return time.monotonic() - self._seen.setdefault(other, ("", time.monotonic()))[1]

    def _beat(self) -> None:
        self._beats += 1
        self._tell(str(self._beats))

    def _tell(self, state: str) -> None:
        if not state.isdigit():
            self._over.set()
        self._store.set(f"state.{self._number}", state)

    def _named(self, other: int) -> str:
        return f"process {other} of 0 to {self._count - 1}, on {self._hosts[other]}"

    def _gone(self, other: int) -> str:
        return f"{self._named(other)}, was killed or has crashed"

    def _is_next(self) -> bool:
        """Whether this one speaks where the first is gone: the next on that machine, and the first on each other."""
        here = int(os.environ.get("LOCAL_RANK") or 0)
        return here == (1 if self._hosts[self._number] == self._hosts[0] else 0)


def _at_work(state: str) -> bool:
    return state.isdigit()
