"""Many accounts in one run, on any number of threads and beside any number of other runs."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from django.db import connections
from django.db.transaction import TransactionManagementError

from django_ilert_oauth.client import IlertClient
from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import (
    IlertOAuthError,
    IlertRejectedError,
    IlertUnavailableError,
    ReconnectRequiredError,
)
from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet

from .apart import in_transaction
from .base import database, open_client
from .batches import Batches, Leased
from .first_answers import FirstAnswers
from .pace import Pace
from .renewal import Outcome, Refusal, end_grant, use_lease

logger = logging.getLogger(__name__)

#: So many requests in a row without a usable answer are an outage.
OUTAGE = 10
#: Seconds, the longest that a ``Retry-After`` is honoured.
LONGEST_PAUSE = 300.0
RATE_LIMIT_TRIES = 3


@dataclass
class BulkResult:
    """``skipped`` were renewed, or are being renewed, by another caller.

    ``failures`` has the code of each account that failed, by pk. ``stopped`` is empty for a run
    that came to its end, else ``credentials``, ``outage`` or ``interrupted``.
    """

    refreshed: int = 0
    skipped: int = 0
    failures: dict[Any, str] = field(default_factory=dict)
    stopped: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def failed(self) -> int:
        return len(self.failures)

    @property
    def done(self) -> int:
        return self.refreshed + self.skipped + self.failed


def refresh_many(
    queryset: ConnectedAccountQuerySet,
    *,
    concurrency: int = 4,
    per_minute: int | None = None,
    force: bool = False,
    retry_reconnect_required: bool = False,
    limit: int | None = None,
    on_progress: Callable[[BulkResult], None] | None = None,
    stop: threading.Event | None = None,
) -> BulkResult:
    """Renews each account; one that fails never stops the rest.

    Requests are spread evenly, ``per_minute`` at the most (``ILERT_OAUTH_REQUESTS_PER_MINUTE``; 0
    for no limit), a 429 pauses all of them. ``retry_reconnect_required`` also asks again for grants
    that ilert refused before. Setting ``stop`` ends the run once the requests under way are
    written. The run ends early where ilert is down, and where it refuses each of the first ten
    grants: then nothing is marked, since the client credentials must be wrong.

    Raises ``ValueError`` for options that make no sense, and ``TransactionManagementError`` inside
    a transaction.
    """
    _require_sense(concurrency, per_minute)
    if in_transaction():
        raise TransactionManagementError("refresh_many cannot run inside a transaction.")
    stop = stop or threading.Event()
    pace = Pace(conf.requests_per_minute if per_minute is None else per_minute, stop)
    batches = Batches(
        queryset, force=force, retry_reconnect_required=retry_reconnect_required, limit=limit
    )
    return _Run(batches, pace, stop, on_progress).on_threads(concurrency)


class _Run:
    def __init__(
        self,
        batches: Batches,
        pace: Pace,
        stop: threading.Event,
        on_progress: Callable[[BulkResult], None] | None,
    ) -> None:
        self._batches = batches
        self._pace = pace
        self._stop = stop
        self._on_progress = on_progress
        self._first_answers = FirstAnswers()
        self._result = BulkResult()
        self._lock = threading.Lock()
        self._unanswered = 0

    def on_threads(self, concurrency: int) -> BulkResult:
        started = time.monotonic()
        try:
            if concurrency > 1 and _other_threads_see_rows():
                self._on_many_threads(concurrency)
            else:
                self._work()
        finally:
            self._batches.give_back_rest()
            self._first_answers.close(spare=self._stop.is_set())
        if self._stop.is_set():
            self._stop_early("interrupted")
        self._result.seconds = time.monotonic() - started
        return self._result

    def _on_many_threads(self, concurrency: int) -> None:
        with ThreadPoolExecutor(concurrency, thread_name_prefix="ilert-refresh") as pool:
            try:
                for worker in [pool.submit(self._work_and_hang_up) for _ in range(concurrency)]:
                    worker.result()
            except BaseException:
                self._stop.set()
                raise

    def _work_and_hang_up(self) -> None:
        try:
            self._work()
        except BaseException:
            self._stop.set()
            raise
        finally:
            connections.close_all()

    def _work(self) -> None:
        with open_client() as client:
            while (leased := self._next()) is not None:
                self._pace.wait()
                outcome = self._ask_safely(leased, client)
                if outcome is not None:
                    self._note(leased.account, outcome)
                    outcome.announce(leased.account)
                    self._show_progress()

    def _next(self) -> Leased | None:
        with self._lock:
            leased = None if self._stop.is_set() else self._batches.next()
            self._result.skipped += self._batches.skipped
            self._batches.skipped = 0
            self._result.failures.update(self._batches.unfit)
            self._batches.unfit.clear()
        if leased is None:
            self._show_progress()
        return leased

    def _show_progress(self) -> None:
        if self._on_progress:
            with self._lock:
                self._on_progress(self._result)

    def _ask_safely(self, leased: Leased, client: IlertClient) -> Outcome | None:
        try:
            return self._ask(leased, client)
        except Exception as error:
            pk, kind = leased.account.pk, type(error).__name__
            logger.error("Account %s was not refreshed: %s", pk, kind)
            return Outcome(error=IlertOAuthError("Not refreshed.", code="unexpected"))

    def _ask(self, leased: Leased, client: IlertClient) -> Outcome | None:
        """None where the run is stopped before ilert is asked."""
        outcome = None
        for tries_left in reversed(range(RATE_LIMIT_TRIES)):
            if self._stop.is_set():
                leased.give_back()
                break
            if not leased.holds():
                return Outcome()
            outcome = use_lease(leased.account, leased.lease_id, client, refused=self._refused)
            if not _is_rate_limited(outcome):
                break
            self._pace.pause(_pause(outcome))
            if tries_left:
                self._pace.wait()
                leased.good_until = 0
        return outcome

    def _refused(self, refusal: Refusal) -> Outcome:
        if not self._first_answers.put_off(refusal):
            return end_grant(refusal)
        if self._first_answers.speak_against_credentials:
            self._stop_early("credentials")
        return Outcome(error=ReconnectRequiredError("Refused.", status=refusal.status))

    def _note(self, account: ConnectedAccount, outcome: Outcome) -> None:
        error = outcome.error
        with self._lock:
            if error is not None:
                self._result.failures[account.pk] = error.code
            self._result.refreshed += outcome.renewed
            self._result.skipped += not outcome.renewed and error is None
            self._watch_for_outage(outcome)
        if outcome.renewed or _shows_right_credentials(error):
            self._first_answers.trust()

    def _watch_for_outage(self, outcome: Outcome) -> None:
        if isinstance(outcome.error, IlertUnavailableError):
            self._unanswered += 1
        elif outcome.renewed or getattr(outcome.error, "status", None):
            self._unanswered = 0
        if self._unanswered >= OUTAGE:
            self._stop_early("outage")

    def _stop_early(self, reason: str) -> None:
        self._result.stopped = self._result.stopped or reason
        self._stop.set()


def _require_sense(concurrency: int, per_minute: int | None) -> None:
    if concurrency < 1:
        raise ValueError("concurrency must be at least 1.")
    if per_minute is not None and per_minute < 0:
        raise ValueError("per_minute must be at least 0; 0 is no limit.")


def _other_threads_see_rows() -> bool:
    """Not those of an open transaction, nor of a SQLite database in memory."""
    connection = connections[database()]
    is_in_memory_db = getattr(connection, "is_in_memory_db", lambda: False)
    return connection.get_autocommit() and not is_in_memory_db()


def _shows_right_credentials(error: IlertOAuthError | None) -> bool:
    if type(error) is not IlertRejectedError or not error.status:
        return False
    return error.code not in ("invalid_client", "unauthorized_client")


def _is_rate_limited(outcome: Outcome) -> bool:
    return outcome.error is not None and outcome.error.code == "rate_limited"


def _pause(outcome: Outcome) -> float:
    """Seconds. ilert names none (observed): its documentation says 10 to 30."""
    asked = getattr(outcome.error, "retry_after", None)
    return random.uniform(10, 30) if asked is None else min(max(asked, 1.0), LONGEST_PAUSE)  # noqa: S311
