"""Many accounts in one run: threads that share a pace, a pause and an end."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from django.db import connections
from django.db.transaction import TransactionManagementError

from django_ilert_oauth.client import IlertClient
from django_ilert_oauth.exceptions import (
    IlertOAuthError,
    IlertRejectedError,
    IlertUnavailableError,
    ReconnectRequiredError,
)
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.transport import pause_after_429

from .apart import in_transaction
from .base import database, open_client
from .first_answers import FirstAnswers
from .pace import Pace
from .renewal import Outcome, Refusal, end_grant, use_lease

logger = logging.getLogger(__name__)

#: So many requests in a row without a usable answer are an outage.
OUTAGE = 10
#: Seconds, the longest that a ``Retry-After`` is honoured.
LONGEST_PAUSE = 300.0
RATE_LIMIT_TRIES = 3

Item = TypeVar("Item")
Result = TypeVar("Result", bound="RunResult")


@dataclass
class RunResult(ABC):
    """``failures`` has the code of each account that failed, by pk.

    ``stopped`` is empty for a run that came to its end, else ``credentials``, ``outage`` or
    ``interrupted``.
    """

    failures: dict[Any, str] = field(default_factory=dict)
    stopped: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def failed(self) -> int:
        return len(self.failures)

    @property
    @abstractmethod
    def done(self) -> int:
        """How many accounts need no more attention of this run."""


class Stopped(Exception):  # noqa: N818
    """The run has ended before a request was made."""


class Run(ABC, Generic[Item, Result]):
    """A kind of run says which accounts there are, what is asked, and what an answer counts as.

    Making one raises ``ValueError`` for options that make no sense, and
    ``TransactionManagementError`` inside a transaction.
    """

    name = ""

    def __init__(
        self,
        result: Result,
        *,
        concurrency: int,
        per_minute: int | None,
        on_progress: Callable[[Result], None] | None,
        on_done: Callable[[Any], None] | None,
        stop: threading.Event | None,
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1.")
        if in_transaction():
            raise TransactionManagementError(f"{self.name} cannot run inside a transaction.")
        self._result = result
        self._concurrency = concurrency
        self._on_progress = on_progress
        self._on_done = on_done
        self._stop = stop or threading.Event()
        self._pace = Pace(per_minute, self._stop)
        self._first_answers = FirstAnswers()
        self._lock = threading.Lock()
        self._unanswered = 0

    def to_its_end(self) -> Result:
        started = time.monotonic()
        try:
            if self._concurrency > 1 and _other_threads_see_rows():
                self._on_many_threads()
            else:
                self._work()
        finally:
            self._let_go()
            self._first_answers.close(spare=self._stop.is_set())
        if self._stop.is_set():
            self._stop_early("interrupted")
        self._result.seconds = time.monotonic() - started
        return self._result

    @abstractmethod
    def _take(self) -> Item | None:
        """The next one, None after the last; under the lock."""

    @abstractmethod
    def _account(self, item: Item) -> ConnectedAccount:
        """Whose item it is."""

    @abstractmethod
    def _once(self, item: Item, client: IlertClient) -> Outcome:
        """Asks ilert; raises ``Stopped``."""

    @abstractmethod
    def _count(self, outcome: Outcome) -> bool:
        """Counts what did not fail, and says whether it was done; under the lock."""

    def _let_go(self) -> None:  # noqa: B027
        """Of what was taken in advance."""

    def _on_many_threads(self) -> None:
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="ilert") as pool:
            try:
                for worker in [pool.submit(self._thread) for _ in range(self._concurrency)]:
                    worker.result()
            except BaseException:
                self._stop.set()
                raise

    def _thread(self) -> None:
        try:
            self._work()
        finally:
            connections.close_all()

    def _work(self) -> None:
        try:
            with open_client() as client:
                while (item := self._next()) is not None:
                    outcome = self._ask_safely(item, client)
                    if outcome is not None:
                        self._note(self._account(item), outcome)
                        outcome.announce(self._account(item))
                        self._show_progress()
        except BaseException:
            self._stop.set()
            raise

    def _next(self) -> Item | None:
        with self._lock:
            item = None if self._stop.is_set() else self._take()
        if item is None:
            self._show_progress()
        return item

    def _show_progress(self) -> None:
        if self._on_progress:
            with self._lock:
                self._on_progress(self._result)

    def _ask_safely(self, item: Item, client: IlertClient) -> Outcome | None:
        try:
            return self._ask(item, client)
        except Exception as error:
            pk, kind = self._account(item).pk, type(error).__name__
            logger.error("The run failed at account %s: %s", pk, kind)
            return Outcome(error=IlertOAuthError("Not done.", code="unexpected"))

    def _ask(self, item: Item, client: IlertClient) -> Outcome | None:
        """None where the run is stopped before ilert is asked."""
        outcome = None
        with suppress(Stopped):
            for _ in range(RATE_LIMIT_TRIES):
                outcome = self._once(item, client)
                if not _is_rate_limited(outcome):
                    break
                self._pace.pause(_pause(outcome))
        return outcome

    def _wait(self) -> None:
        """For the moment of the next request; raises ``Stopped``."""
        self._pace.wait()
        if self._stop.is_set():
            raise Stopped

    def _use_lease(
        self, account: ConnectedAccount, lease_id: str, *, client: IlertClient
    ) -> Outcome:
        outcome = use_lease(account, lease_id, client, refused=self._refused)
        if outcome.renewed or _shows_right_credentials(outcome.error):
            self._first_answers.trust()
        return outcome

    def _refused(self, refusal: Refusal) -> Outcome:
        if not self._first_answers.put_off(refusal):
            return end_grant(refusal)
        if self._first_answers.speak_against_credentials:
            self._stop_early("credentials")
        return Outcome(error=ReconnectRequiredError("Refused.", status=refusal.status))

    def _note(self, account: ConnectedAccount, outcome: Outcome) -> None:
        with self._lock:
            if outcome.error is None:
                is_answer = self._count(outcome)
                if is_answer and self._on_done:
                    self._on_done(account.pk)
            else:
                self._result.failures[account.pk] = outcome.error.code
                is_answer = bool(getattr(outcome.error, "status", None))
            if isinstance(outcome.error, IlertUnavailableError):
                self._unanswered += 1
            elif is_answer:
                self._unanswered = 0
            if self._unanswered >= OUTAGE:
                self._stop_early("outage")

    def _stop_early(self, reason: str) -> None:
        self._result.stopped = self._result.stopped or reason
        self._stop.set()


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
    return min(pause_after_429(getattr(outcome.error, "retry_after", None)), LONGEST_PAUSE)
