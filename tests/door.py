"""A door before the stand-in: who came when, how many are inside, and what happens at the door."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

from ilert_standin import StandIn, serve

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Door:
    """``arrivals`` are moments of ``time.monotonic``; ``on_arrival`` is given how many came."""

    def __init__(self, standin: StandIn) -> None:
        self.standin = standin
        self._lock = Lock()
        self._inside = 0
        self.most_inside = 0
        self.arrivals: list[float] = []
        self.on_arrival: Callable[[int], Any] = lambda count: None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with self._lock:
            self.arrivals.append(time.monotonic())
            count = len(self.arrivals)
            self._inside += 1
            self.most_inside = max(self.most_inside, self._inside)
        try:
            self.on_arrival(count)
            return self.standin(environ, start_response)
        finally:
            with self._lock:
                self._inside -= 1


@contextmanager
def door_before(standin: StandIn, settings: Any) -> Iterator[Door]:
    """Accounts that are made from now on go through it."""
    door = Door(standin)
    with serve(door) as url:
        settings.ILERT_OAUTH_API_URL = url
        yield door
