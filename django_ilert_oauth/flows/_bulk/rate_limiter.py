"""How many requests a minute may go to ilert."""

from __future__ import annotations

import threading
from collections.abc import Generator

from django_ilert_oauth.conf import conf
from django_ilert_oauth.oauth.transport import clock

#: Keeps a rolling minute below the limit although requests arrive a little early or late.
SLACK = 1.01
#: Seconds after which a waiting run looks whether it has been stopped.
MAX_NAP = 0.2


class RateLimiter:
    """Hands out slots that are evenly spread. 0 a minute is no limit.

    Raises ``ValueError`` below 0; None stands for ``ILERT_OAUTH_REQUESTS_PER_MINUTE``.
    """

    def __init__(self, per_minute: int | None) -> None:
        if per_minute is None:
            per_minute = conf.requests_per_minute
        if per_minute < 0:
            raise ValueError("per_minute must be at least 0; 0 is no limit.")
        self._gap = 60 / per_minute * SLACK if per_minute else 0.0
        self._next = self._paused_until = clock()

    def slot(self) -> Generator[float, None, None]:
        """Waits for the next slot that no pause has overtaken."""
        slot = self._take()
        while (seconds := slot - clock()) > 0 or slot < self._paused_until:
            yield min(max(seconds, 0.0), MAX_NAP)
            if slot < self._paused_until:
                slot = self._take()

    def wait(self, stop: threading.Event) -> bool:
        """Blocks until the next slot; False where the event came before it."""
        for seconds in self.slot():
            if stop.wait(seconds):
                return False
        return not stop.is_set()

    def pause(self, seconds: float) -> None:
        self._paused_until = max(self._paused_until, clock() + seconds)

    def _take(self) -> float:
        slot = max(self._next, self._paused_until, clock())
        self._next = slot + self._gap
        return slot
