"""How fast many requests may go."""

from __future__ import annotations

import threading
import time

from django_ilert_oauth.conf import conf

#: Keeps a rolling minute below the limit although requests arrive a little early or late.
SLACK = 1.01


class Pace:
    """Shared by threads: hands out moments that are evenly spread. 0 a minute is no pace.

    Raises ``ValueError`` below 0; None stands for ``ILERT_OAUTH_REQUESTS_PER_MINUTE``.
    """

    def __init__(self, per_minute: int | None, stop: threading.Event) -> None:
        if per_minute is None:
            per_minute = conf.requests_per_minute
        if per_minute < 0:
            raise ValueError("per_minute must be at least 0; 0 is no limit.")
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
