"""Many accounts refreshed in one run, beside any number of others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import (
    EndpointMismatchError,
    IlertUnavailableError,
    ReconnectRequiredError,
)
from django_ilert_oauth.flows._lease import Snapshot, read_snapshots, take_lease
from django_ilert_oauth.flows._refresh_request import Outcome, Requester, refresh_with_lease
from django_ilert_oauth.flows._steps import Steps
from django_ilert_oauth.flows._storing import DATABASE_PATIENCE, retrying
from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet, Status
from django_ilert_oauth.oauth.transport import clock

from .account_queue import AccountQueue
from .run_result import RunResult
from .runner import MAX_ATTEMPTS, Run


@dataclass
class BulkResult(RunResult):
    """The result of ``refresh_many``.

    ``skipped`` accounts are being refreshed by another caller, or were refreshed less than
    ``ILERT_OAUTH_MIN_REFRESH_INTERVAL`` ago. ``failures`` maps the primary key of each account that
    failed to an error code, and ``failed`` is their number. ``stopped`` is why the run ended early
    (``credentials``, ``invalid_client``, ``outage``, ``database`` or ``interrupted``), or empty.
    """

    refreshed: int = 0
    skipped: int = 0

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
    mark_ended: bool = False,
    limit: int | None = None,
    on_progress: Callable[[BulkResult], None] | None = None,
    on_done: Callable[[Any], None] | None = None,
    stop: threading.Event | None = None,
) -> BulkResult:
    """Refreshes each account once, even if the queryset contains it twice.

    The calling thread does all database work; up to ``concurrency`` requests are under way at once.
    They are spread evenly, at most ``per_minute`` (default: ``ILERT_OAUTH_REQUESTS_PER_MINUTE``; 0:
    no limit), and a 429 pauses them all. Setting ``stop`` ends the run once the responses under way
    are stored. ``on_done`` gets the primary key of each refreshed account. The other options are
    those of ``refresh_ilert_tokens``.

    One failure never stops the rest. The run ends early if the database is down, and for one client
    if its ilert is down or refuses it. ``invalid_grant`` ends a grant if another of the client has
    been refreshed, since otherwise the secret may be wrong, or if ``mark_ended`` is true.

    Raises ``ValueError`` for a bad option, and ``TransactionManagementError`` in a transaction.
    """
    return _Refreshing(
        BulkResult(),
        partial(AccountQueue, queryset),
        force=force,
        retry_reconnect_required=retry_reconnect_required,
        concurrency=concurrency,
        per_minute=per_minute,
        limit=limit,
        mark_ended=mark_ended,
        on_progress=on_progress,
        on_done=on_done,
        stop=stop,
    ).execute()


class _Refreshing(Run[BulkResult]):
    name = "refresh_many"

    def __init__(
        self, *args: Any, force: bool, retry_reconnect_required: bool, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._statuses = {Status.CONNECTED}
        if retry_reconnect_required:
            self._statuses.add(Status.RECONNECT_REQUIRED)
        self._interval = timedelta(0) if force else conf.min_refresh_interval
        self._put_last: set[Any] = set()

    def _next(self) -> Snapshot | None:
        while (snapshot := self._queue.next()) is not None:
            if self._is_eligible(snapshot):
                return snapshot
        self._result.skipped += self._queue.deleted
        self._queue.deleted = 0
        return None

    def _is_eligible(self, snapshot: Snapshot) -> bool:
        account = snapshot.account
        if account.status not in self._statuses:
            self._result.failures[account.pk] = ReconnectRequiredError.code
        elif not conf.has_client(account.api_url, account.client_id):
            self._result.failures[account.pk] = EndpointMismatchError.code
        elif snapshot.is_leased or self._is_too_early(account, snapshot.now):
            self._result.skipped += 1
        else:
            return True
        return False

    def _is_too_early(self, account: ConnectedAccount, now: datetime) -> bool:
        return account.was_refreshed_within(self._interval, now=now)

    def _steps(self, snapshot: Snapshot, requester: Requester) -> Steps[Outcome | None]:
        for _ in range(MAX_ATTEMPTS):
            yield from requester.slot(snapshot.account)
            until = clock() + DATABASE_PATIENCE
            lease = yield from retrying(partial(take_lease, snapshot), until, writes=True)
            if lease is None:
                return (yield from retrying(partial(self._without_lease, snapshot), until))
            outcome = yield from refresh_with_lease(lease, requester)
            if not self._pause_after(snapshot.account, outcome):
                break
        return outcome

    def _without_lease(self, snapshot: Snapshot) -> Outcome | None:
        """Another caller has it; or the row is locked, and is looked at again at the end."""
        account = snapshot.account
        snapshots = read_snapshots([account.pk])
        if not snapshots:
            self._result.skipped += 1
        elif self._is_eligible(snapshots[0]):
            if account.pk in self._put_last:
                error = IlertUnavailableError("The row is locked.", code="row_locked")
                return Outcome(error=error)
            self._put_last.add(account.pk)
            self._queue.put_last(account)
            if self._left is not None:
                self._left += 1
        return None

    def _count(self, outcome: Outcome) -> bool:
        self._result.refreshed += outcome.refreshed
        self._result.skipped += not outcome.refreshed
        return outcome.refreshed
