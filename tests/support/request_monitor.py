"""Stands before the stand-in: when requests came, how many at once, and what happens as they do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

from ilert_standin import StandIn, serve

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class RequestMonitor:
    """``arrivals`` are moments of ``time.monotonic``; ``on_arrival`` is given how many came."""

    def __init__(self, standin: StandIn) -> None:
        self.standin = standin
        self._lock = Lock()
        self._concurrent = 0
        self.max_concurrent = 0
        self.arrivals: list[float] = []
        self.on_arrival: Callable[[int], Any] = lambda count: None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with self._lock:
            self.arrivals.append(time.monotonic())
            count = len(self.arrivals)
            self._concurrent += 1
            self.max_concurrent = max(self.max_concurrent, self._concurrent)
        try:
            self.on_arrival(count)
            return self.standin(environ, start_response)
        finally:
            with self._lock:
                self._concurrent -= 1


@contextmanager
def monitor_before(standin: StandIn, settings: Any) -> Iterator[RequestMonitor]:
    """Requests for accounts that are made from now on go through it."""
    monitor = RequestMonitor(standin)
    with serve(monitor) as url:
        settings.ILERT_OAUTH_API_URL = url
        yield monitor
