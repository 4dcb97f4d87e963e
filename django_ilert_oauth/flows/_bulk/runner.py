"""Many accounts in one run: one thread for the database, many requests under way."""

from __future__ import annotations

import heapq
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from django.db import DataError, connections
from django.db.transaction import TransactionManagementError

from django_ilert_oauth.exceptions import IlertOAuthError, IlertRejectedError, IlertUnavailableError
from django_ilert_oauth.flows._client import require_client
from django_ilert_oauth.flows._lease import Look
from django_ilert_oauth.flows._refresh_request import Outcome, Requester
from django_ilert_oauth.flows._steps import Steps, run_now
from django_ilert_oauth.flows._storing import DATABASE_ERRORS, PAUSE, can_store, retrying
from django_ilert_oauth.flows._transactions import drop_broken_connection, in_transaction
from django_ilert_oauth.internal.rows import database
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth.client import IlertClient
from django_ilert_oauth.oauth.transport import clock, pause_after_429

from .account_queue import AccountQueue
from .client_state import ClientState, client_states, opened
from .credential_guard import rejects_client
from .rate_limiter import MAX_NAP

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
    ``outage``, ``database`` or ``interrupted``. The first three are a client's own: accounts of
    others were gone on with.
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
        self._states = client_states(per_minute, mark_ended=mark_ended)
        self._has_ended = False
        self._active = 0
        self._ready: SimpleQueue[_Task] = SimpleQueue()
        self._sleeping: list[tuple[float, int, _Task]] = []
        self._numbers = count()

    def execute(self) -> Result:
        started = clock()
        with opened(self._states) as clients:
            try:
                self._run(clients)
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
    def _next(self) -> Look | None:
        """The next account to ask about, None after the last."""

    @abstractmethod
    def _steps(self, look: Look, requester: Requester) -> Steps[Outcome | None]:
        """None where nothing is to be counted; raises ``Stopped``."""

    @abstractmethod
    def _count(self, outcome: Outcome) -> bool:
        """Counts what did not fail, and says whether it was done."""

    def _run(self, clients: Mapping[tuple[str, str], IlertClient]) -> None:
        requester = Requester(
            client_for=lambda account: clients[account.api_url, account.client_id],
            slot=self._slot,
            on_invalid_grant=lambda response: self._state_of(
                response.account
            ).guard.on_invalid_grant(response),
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
        look: Look | None = self._from_database(self._next_to_ask)
        if look is not None and self._left is not None:
            self._left -= 1
        return look

    def _next_to_ask(self) -> Look | None:
        """Without those of clients that are asked nothing more for."""
        while (look := self._next()) is not None:
            state = self._find_state(look.account)
            if state is None or not state.has_ended:
                return look
        return None

    def _find_state(self, account: ConnectedAccount) -> ClientState | None:
        return self._states.get((account.api_url, account.client_id))

    def _state_of(self, account: ConnectedAccount) -> ClientState:
        require_client(account)
        return self._states[account.api_url, account.client_id]

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
            self._note_of_client(state, outcome)

    def _note_of_client(self, state: ClientState, outcome: Outcome) -> None:
        error = outcome.error
        if outcome.refreshed:
            self._from_database(state.guard.succeeded)
        elif rejects_client(error):
            self._stop_client(state, "invalid_client")
        if error is None or (isinstance(error, IlertRejectedError) and error.status):
            state.unanswered = 0
        elif isinstance(error, IlertUnavailableError) and error.code not in OWN_CODES:
            state.unanswered += error.status in OUTAGE_STATUSES
            if state.unanswered >= OUTAGE:
                self._stop_client(state, "outage")

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
            logger.error("The run asks no more for the client %s: %s", state.name, reason)
        state.has_ended = True
        self._result.stopped = self._result.stopped or reason

    def _stop_early(self, reason: str) -> None:
        self._result.stopped = self._result.stopped or reason
        self._has_ended = True
