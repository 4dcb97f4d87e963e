"""When a response is not final, and how long to wait then."""

from __future__ import annotations

import random
import time

import requests
from urllib3.util import Retry

from django_ilert_oauth.oauth.transport import pause_after_429, retry_after

RATE_LIMITED = 429
RETRY_STATUSES = frozenset({RATE_LIMITED, 502, 503, 504})
#: For a gateway; the default ``max_wait`` of ``IlertSession`` leaves no time for more. A rate limit
#: passes, so only ``max_wait`` says how often that is waited for.
MAX_RETRIES = 3


class Retries:
    """The waits of one request, ``max_wait`` seconds in all."""

    def __init__(self, max_wait: float) -> None:
        self._left = max_wait
        self._attempt = 0

    def wait_after(self, response: requests.Response) -> float | None:
        """Seconds until the request is sent again; None where the response is final."""
        status = response.status_code
        is_repeatable = response.request.method in Retry.DEFAULT_ALLOWED_METHODS
        if status not in RETRY_STATUSES or not (is_repeatable or status == RATE_LIMITED):
            return None
        self._attempt += status != RATE_LIMITED
        asked = retry_after(response.headers.get("Retry-After"))
        if status == RATE_LIMITED:
            seconds = pause_after_429(asked, max_seconds=self._left)
        else:
            jitter = random.uniform(0.25, 0.5)  # noqa: S311
            seconds = max(asked or 0.0, jitter * 2.0**self._attempt)
        if seconds > self._left or self._attempt > MAX_RETRIES:
            return None
        self._left -= seconds
        return seconds


def wait(seconds: float) -> None:
    time.sleep(seconds)
