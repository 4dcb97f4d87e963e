"""Many accounts in one run: one thread for the database, many requests under way."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from django.db import DataError, connections
from django.db.transaction import TransactionManagementError

from django_ilert_oauth.exceptions import IlertOAuthError, IlertUnavailableError
from django_ilert_oauth.flows._client import require_client
from django_ilert_oauth.flows._lease import Lease, Snapshot
from django_ilert_oauth.flows._refresh_request import Outcome, Requester
from django_ilert_oauth.flows._steps import Steps, is_interrupt
from django_ilert_oauth.flows._storing import DATABASE_ERRORS, PAUSE, can_store, from_database
from django_ilert_oauth.flows._transactions import drop_broken_connection, in_transaction
from django_ilert_oauth.internal.rows import database
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth.transport import clock, pause_after_429

from .account_queue import AccountQueue
from .client_state import ClientState, client_states
from .run_result import RunResult
from .waiting_tasks import Task, WaitingTasks

logger = logging.getLogger(__name__)

#: Seconds: a longer ``Retry-After`` is cut to this.
MAX_PAUSE = 300.0
MAX_ATTEMPTS = 3

Result = TypeVar("Result", bound="RunResult")


class Stopped(Exception):  # noqa: N818
    """The run has ended before a request was made."""


class Run(ABC, Generic[Result]):
    """Subclasses say what is asked about an account, and what the outcome counts as.

    Before anything is asked it raises ``ValueError`` for options that make no sense, and
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
        self._per_minute, self._mark_ended = per_minute, mark_ended
        self._has_ended = False
        self._tasks: set[Task] = set()
        self._waiting = WaitingTasks()

    def execute(self) -> Result:
        started = clock()
        with client_states(self._per_minute, mark_ended=self._mark_ended) as self._states:
            try:
                self._run()
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
        else:
            self._stop_clients_with_only_invalid_grants()
        self._result.seconds = clock() - started
        return self._result

    @abstractmethod
    def _next(self) -> Snapshot | None:
        """The next account to ask about, None after the last."""

    @abstractmethod
    def _steps(self, snapshot: Snapshot, requester: Requester) -> Steps[Outcome | None]:
        """None where nothing is to be counted; raises ``Stopped``."""

    @abstractmethod
    def _count(self, outcome: Outcome) -> bool:
        """Counts what did not fail, and says whether it was done."""

    def _run(self) -> None:
        requester = Requester(
            client_for=lambda account: self._state_of(account).client,
            slot=self._slot,
            on_invalid_grant=self._on_invalid_grant,
        )
        self._queue: AccountQueue = self._from_database(self._make_queue)
        while True:
            while len(self._tasks) < self._concurrency and (snapshot := self._take()) is not None:
                task = Task(snapshot, self._steps(snapshot, requester))
                self._tasks.add(task)
                self._advance(task)
            if not self._tasks:
                break
            self._advance(self._waiting.pop())
        self._on_progress(self._result)

    def _on_invalid_grant(self, lease: Lease, status: int) -> Steps[Outcome]:
        return self._state_of(lease.account).guard.on_invalid_grant(lease, status)

    def _work_off(self) -> None:
        """All of them, in a new queue: whatever interrupts the run may have lost one."""
        self._waiting = WaitingTasks()
        for task in self._tasks:
            self._waiting.add(task)
        while self._tasks:
            self._advance(self._waiting.pop())

    def _take(self) -> Snapshot | None:
        if self._is_over() or self._left == 0:
            return None
        snapshot: Snapshot | None = self._from_database(self._next_to_ask)
        if snapshot is not None and self._left is not None:
            self._left -= 1
        return snapshot

    def _next_to_ask(self) -> Snapshot | None:
        """Without those of clients that are asked nothing more for."""
        while (snapshot := self._next()) is not None:
            state = self._find_state(snapshot.account)
            if state is None or not state.has_ended:
                return snapshot
        return None

    def _find_state(self, account: ConnectedAccount) -> ClientState | None:
        return self._states.get((account.api_url, account.client_id))

    def _state_of(self, account: ConnectedAccount) -> ClientState:
        require_client(account)
        return self._states[account.api_url, account.client_id]

    def _from_database(self, call: Callable[[], Any]) -> Any:
        """None where the database fails for good."""
        try:
            return from_database(call)
        except DATABASE_ERRORS as error:
            self._database_failed(error)

    def _advance(self, task: Task) -> None:
        try:
            task.awaited = next(task.steps)
        except StopIteration as end:
            self._finish(task, end.value)
        except Stopped:
            self._finish(task, None)
        except IlertOAuthError as error:
            self._finish(task, Outcome(error=error.with_traceback(None)))
        except Exception as error:
            if is_interrupt(error):
                raise
            self._finish(task, Outcome(error=self._failure_at(task, error)))
        else:
            self._waiting.add(task)

    def _failure_at(self, task: Task, error: Exception) -> IlertOAuthError:
        """A database that fails ends the run; data that it does not take are one account's."""
        if isinstance(error, DATABASE_ERRORS) and not isinstance(error, DataError):
            self._database_failed(error)
            return IlertUnavailableError("The database failed.", code="database")
        pk, kind = task.snapshot.account.pk, type(error).__name__
        logger.error("Account %s failed unexpectedly: %s", pk, kind)
        return IlertOAuthError("Not done.", code="unexpected")

    def _finish(self, task: Task, outcome: Outcome | None) -> None:
        self._tasks.discard(task)
        if outcome is not None:
            account = task.snapshot.account
            self._note(account, outcome)
            outcome.send_signal(account)
        self._on_progress(self._result)

    def _note(self, account: ConnectedAccount, outcome: Outcome) -> None:
        error = outcome.error
        if error is None:
            if self._count(outcome):
                self._on_done(account.pk)
        else:
            self._result.failures[account.pk] = error.code
            if error.code == "not_stored":
                self._stop_early("database")
        if state := self._find_state(account):
            if outcome.refreshed:
                self._from_database(state.guard.succeeded)
            if reason := state.note(error):
                self._stop_client(state, reason)

    def _slot(self, account: ConnectedAccount) -> Steps[None]:
        """For the next request; raises ``Stopped``."""
        state = self._state_of(account)
        for seconds in state.limiter.slot():
            yield seconds
            self._require_running(state)
        self._require_running(state)
        while not can_store():
            yield PAUSE
            self._require_running(state)

    def _require_running(self, state: ClientState) -> None:
        if self._is_over() or state.has_ended:
            raise Stopped

    def _is_over(self) -> bool:
        all_have_ended = all(state.has_ended for state in self._states.values())
        return self._has_ended or self._stop.is_set() or all_have_ended

    def _pause_after(self, account: ConnectedAccount, outcome: Outcome) -> bool:
        """Whether ilert asks for fewer requests: then all requests to it pause."""
        if outcome.error is None or outcome.error.code != "rate_limited":
            return False
        asked = getattr(outcome.error, "retry_after", None)
        self._state_of(account).limiter.pause(min(pause_after_429(asked), MAX_PAUSE))
        return True

    def _database_failed(self, error: Exception) -> None:
        logger.error("The run ends, since the database failed: %s", type(error).__name__)
        if not connections[database()].in_atomic_block:
            connections[database()].close()
        self._stop_early("database")

    def _stop_clients_with_only_invalid_grants(self) -> None:
        for state in self._states.values():
            if state.guard.has_only_invalid_grants:
                self._stop_client(state, "credentials")

    def _stop_client(self, state: ClientState, reason: str) -> None:
        if not state.has_ended:
            logger.error("No more requests for the client %s: %s", state.name, reason)
        state.has_ended = True
        self._result.stopped = self._result.stopped or reason

    def _stop_early(self, reason: str) -> None:
        self._result.stopped = self._result.stopped or reason
        self._has_ended = True
