"""Many accounts in one run: one thread for the database, many requests under way."""

from __future__ import annotations

import heapq
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from django.db import DataError, connections
from django.db.transaction import TransactionManagementError

from django_ilert_oauth.exceptions import IlertOAuthError, IlertRejectedError, IlertUnavailableError
from django_ilert_oauth.flows._client import open_client
from django_ilert_oauth.flows._lease import Look
from django_ilert_oauth.flows._refresh_request import Outcome, Requester
from django_ilert_oauth.flows._steps import Steps, run_now
from django_ilert_oauth.flows._storing import DATABASE_ERRORS, PAUSE, can_store, retrying
from django_ilert_oauth.flows._transactions import drop_broken_connection, in_transaction
from django_ilert_oauth.internal.rows import database
from django_ilert_oauth.oauth.client import IlertClient
from django_ilert_oauth.oauth.transport import clock, pause_after_429

from .account_queue import AccountQueue
from .credential_guard import CredentialGuard, rejects_client
from .rate_limiter import MAX_NAP, RateLimiter

logger = logging.getLogger(__name__)

#: So many responses in a row that say nothing about an account are an outage.
OUTAGE = 10
#: HTTP statuses of a gateway, of a limit, and of no response at all.
OUTAGE_STATUSES = frozenset({0, 429, 502, 503, 504})
#: Seconds: a longer ``Retry-After`` is cut to this.
MAX_PAUSE = 300.0
MAX_ATTEMPTS = 3
#: Of failures that ilert has nothing to do with.
OWN_CODES = frozenset({"busy", "row_locked", "not_stored", "database"})
#: Seconds that a run waits for a database that fails before a request is made.
DATABASE_PATIENCE = 30.0

Result = TypeVar("Result", bound="RunResult")


@dataclass
class RunResult(ABC):
    """``failures`` has the code of each account that failed, by pk.

    ``stopped`` is empty for a run that came to its end, else ``credentials``, ``invalid_client``,
    ``outage``, ``database`` or ``interrupted``.
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


@dataclass(eq=False)
class _Task:
    look: Look
    steps: Steps[Outcome | None]


class Run(ABC, Generic[Result]):
    """Subclasses say what is asked about an account, and what the outcome counts as.

    Making one raises ``ValueError`` for options that make no sense, and
    ``TransactionManagementError`` inside a transaction.
    """

    name = ""

    def __init__(
        self,
        result: Result,
        queue: Callable[[], AccountQueue],
        *,
        concurrency: int,
        per_minute: int | None,
        limit: int | None,
        mark_ended: bool,
        on_progress: Callable[[Result], None] | None,
        on_done: Callable[[Any], None] | None,
        stop: threading.Event | None,
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1.")
        if in_transaction():
            raise TransactionManagementError(f"{self.name} cannot run inside a transaction.")
        self._result = result
        self._make_queue = queue
        self._concurrency = concurrency
        self._left = limit
        self._on_progress = on_progress or (lambda result: None)
        self._on_done = on_done or (lambda pk: None)
        self._stop = stop or threading.Event()
        self._limiter = RateLimiter(per_minute)
        self._guard = CredentialGuard(mark_ended=mark_ended)
        self._has_ended = False
        self._unanswered = 0
        self._active = 0
        self._ready: SimpleQueue[_Task] = SimpleQueue()
        self._sleeping: list[tuple[float, int, _Task]] = []
        self._numbers = count()

    def execute(self) -> Result:
        started = clock()
        with open_client() as client:
            try:
                self._run(client)
            except BaseException:
                # Responses that are under way are stored all the same.
                self._has_ended = True
                self._on_progress = self._on_done = lambda _: None
                self._work_off()
                raise
        # Whatever comes after the run finds a connection that works.
        drop_broken_connection()
        if self._stop.is_set():
            self._stop_early("interrupted")
        elif self._guard.has_only_invalid_grants:
            self._stop_early("credentials")
        self._result.seconds = clock() - started
        return self._result

    @abstractmethod
    def _next(self) -> Look | None:
        """The next account to ask about, None after the last."""

    @abstractmethod
    def _steps(self, look: Look, requester: Requester) -> Steps[Outcome | None]:
        """None where nothing is to be counted; raises ``Stopped``."""

    @abstractmethod
    def _count(self, outcome: Outcome) -> bool:
        """Counts what did not fail, and says whether it was done."""

    def _run(self, client: IlertClient) -> None:
        requester = Requester(
            client, slot=self._slot, on_invalid_grant=self._guard.on_invalid_grant
        )
        self._queue: AccountQueue = self._from_database(self._make_queue)
        while True:
            while self._active < self._concurrency and (look := self._take()) is not None:
                self._active += 1
                self._advance(_Task(look, self._steps(look, requester)))
            if not self._active:
                break
            self._advance(self._next_ready())
        self._on_progress(self._result)

    def _work_off(self) -> None:
        while self._active:
            self._advance(self._next_ready())

    def _take(self) -> Look | None:
        if self._is_over() or self._left == 0:
            return None
        look: Look | None = self._from_database(self._next)
        if look is not None and self._left is not None:
            self._left -= 1
        return look

    def _from_database(self, call: Callable[[], Any]) -> Any:
        """None where the database fails for good."""
        try:
            return run_now(retrying(call, clock() + DATABASE_PATIENCE))
        except DATABASE_ERRORS as error:
            self._database_failed(error)

    def _next_ready(self) -> _Task:
        while True:
            if self._sleeping and self._sleeping[0][0] <= clock():
                return heapq.heappop(self._sleeping)[2]
            nap = self._sleeping[0][0] - clock() if self._sleeping else MAX_NAP
            try:
                return self._ready.get(timeout=max(nap, 0.0))
            except Empty:
                continue

    def _advance(self, task: _Task) -> None:
        try:
            awaited = next(task.steps)
        except StopIteration as end:
            self._finish(task, end.value)
        except Stopped:
            self._finish(task, None)
        except IlertOAuthError as error:
            self._finish(task, Outcome(error=error.with_traceback(None)))
        except Exception as error:
            self._finish(task, Outcome(error=self._failure_at(task, error)))
        else:
            self._await(task, awaited)

    def _failure_at(self, task: _Task, error: Exception) -> IlertOAuthError:
        """A database that fails ends the run; data that it does not take are one account's."""
        if isinstance(error, DATABASE_ERRORS) and not isinstance(error, DataError):
            self._database_failed(error)
            return IlertUnavailableError("The database failed.", code="database")
        pk, kind = task.look.account.pk, type(error).__name__
        logger.error("The run failed at account %s: %s", pk, kind)
        return IlertOAuthError("Not done.", code="unexpected")

    def _await(self, task: _Task, awaited: Future[Any] | float) -> None:
        if isinstance(awaited, Future):
            awaited.add_done_callback(lambda _future: self._ready.put(task))
        else:
            heapq.heappush(self._sleeping, (clock() + awaited, next(self._numbers), task))

    def _finish(self, task: _Task, outcome: Outcome | None) -> None:
        self._active -= 1
        if outcome is not None:
            account = task.look.account
            self._note(account.pk, outcome)
            outcome.send_signal(account)
        self._on_progress(self._result)

    def _note(self, pk: Any, outcome: Outcome) -> None:
        error = outcome.error
        if error is None:
            if self._count(outcome):
                self._on_done(pk)
        else:
            self._result.failures[pk] = error.code
        if outcome.refreshed:
            self._from_database(self._guard.succeeded)
        elif rejects_client(error):
            self._stop_early("invalid_client")
        elif error is not None and error.code == "not_stored":
            self._stop_early("database")
        self._note_outage(outcome)

    def _note_outage(self, outcome: Outcome) -> None:
        error = outcome.error
        if error is None or (isinstance(error, IlertRejectedError) and error.status):
            self._unanswered = 0
        elif isinstance(error, IlertUnavailableError) and error.code not in OWN_CODES:
            self._unanswered += error.status in OUTAGE_STATUSES
            if self._unanswered >= OUTAGE:
                self._stop_early("outage")

    def _slot(self) -> Steps[None]:
        """For the next request; raises ``Stopped``."""
        for seconds in self._limiter.slot():
            yield seconds
            self._require_running()
        self._require_running()
        while not can_store():
            yield PAUSE
            self._require_running()

    def _require_running(self) -> None:
        if self._is_over():
            raise Stopped

    def _is_over(self) -> bool:
        return self._has_ended or self._stop.is_set()

    def _pause_after(self, outcome: Outcome) -> bool:
        """Whether ilert asks for fewer requests: then all of the run pauses."""
        if outcome.error is None or outcome.error.code != "rate_limited":
            return False
        asked = getattr(outcome.error, "retry_after", None)
        self._limiter.pause(min(pause_after_429(asked), MAX_PAUSE))
        return True

    def _database_failed(self, error: Exception) -> None:
        logger.error("The run ends, since the database failed: %s", type(error).__name__)
        if not connections[database()].in_atomic_block:
            connections[database()].close()
        self._stop_early("database")

    def _stop_early(self, reason: str) -> None:
        self._result.stopped = self._result.stopped or reason
        self._has_ended = True
