"""How fast many requests may go."""

from __future__ import annotations

import threading
import time

#: Keeps a rolling minute below the limit although requests arrive a little early or late.
SLACK = 1.01


class Pace:
    """Shared by threads: hands out moments that are evenly spread. 0 a minute is no pace."""

    def __init__(self, per_minute: int, stop: threading.Event) -> None:
        self._gap = 60 / per_minute * SLACK if per_minute else 0.0
        self._stop = stop
        self._next = self._paused_until = time.monotonic()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Until this caller's moment has come, or the run is stopped."""
        moment = self._take()
        while not self._stop.wait(max(moment - time.monotonic(), 0)):
            if moment >= self._paused_until:
                return
            moment = self._take()

    def pause(self, seconds: float) -> None:
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def _take(self) -> float:
        with self._lock:
            moment = max(self._next, self._paused_until, time.monotonic())
            self._next = moment + self._gap
            return moment
