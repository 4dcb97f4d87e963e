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
from django_ilert_oauth.flows._lease import Look, look_at_many, take_lease
from django_ilert_oauth.flows._refresh_request import Outcome, Requester, refresh_under
from django_ilert_oauth.flows._steps import Steps
from django_ilert_oauth.flows._storing import retrying
from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet, Status
from django_ilert_oauth.oauth.transport import clock

from .account_queue import AccountQueue
from .runner import DATABASE_PATIENCE, MAX_ATTEMPTS, Run, RunResult


@dataclass
class BulkResult(RunResult):
    """The counts of a run of ``refresh_many``.

    ``skipped`` accounts were refreshed, or are being refreshed, by another caller.
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
    """Refreshes each account once, however the queryset lists it; one failure never stops the rest.

    All database work happens in the calling thread, on its connection; ``concurrency`` requests are
    under way at once. They are spread evenly, at most ``per_minute``
    (``ILERT_OAUTH_REQUESTS_PER_MINUTE``; 0 for no limit), and a 429 pauses all of them. Accounts
    that failed before are asked for last; ``retry_reconnect_required`` asks again for refused
    grants, too. Setting ``stop`` ends the run once the requests under way are stored. It ends early
    where the database is down, and for the accounts of one client where its ilert is down or
    refuses the client itself. An ``invalid_grant`` ends a grant once any account of its client has
    been refreshed; ``mark_ended`` believes it without. ``on_done`` gets the key of each refreshed.

    Raises ``ValueError`` for options that make no sense, and ``TransactionManagementError`` inside
    a transaction.
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

    def _next(self) -> Look | None:
        while (look := self._queue.next()) is not None:
            if self._is_eligible(look):
                return look
        self._result.skipped += self._queue.deleted
        self._queue.deleted = 0
        return None

    def _is_eligible(self, look: Look) -> bool:
        account = look.account
        if account.status not in self._statuses:
            self._result.failures[account.pk] = ReconnectRequiredError.code
        elif not conf.has_client(account.api_url, account.client_id):
            self._result.failures[account.pk] = EndpointMismatchError.code
        elif look.is_leased or self._is_too_early(account, look.now):
            self._result.skipped += 1
        else:
            return True
        return False

    def _is_too_early(self, account: ConnectedAccount, now: datetime) -> bool:
        return account.was_refreshed_within(self._interval, now=now)

    def _steps(self, look: Look, requester: Requester) -> Steps[Outcome | None]:
        for _ in range(MAX_ATTEMPTS):
            yield from requester.slot(look.account)
            until = clock() + DATABASE_PATIENCE
            lease = yield from retrying(partial(take_lease, look), until, writes=True)
            if lease is None:
                return (yield from retrying(partial(self._without_lease, look), until))
            outcome = yield from refresh_under(lease, requester)
            if not self._pause_after(look.account, outcome):
                break
        return outcome

    def _without_lease(self, look: Look) -> Outcome | None:
        """Another caller has it; or the row is locked, and is looked at again at the end."""
        account = look.account
        if account.pk in self._put_last:
            error = IlertUnavailableError("The row is locked.", code="row_locked")
            return Outcome(error=error)
        looks = look_at_many([account.pk])
        if not looks:
            self._result.skipped += 1
        elif self._is_eligible(looks[0]):
            self._put_last.add(account.pk)
            self._queue.put_last(account)
            if self._left is not None:
                self._left += 1
        return None

    def _count(self, outcome: Outcome) -> bool:
        self._result.refreshed += outcome.refreshed
        self._result.skipped += not outcome.refreshed
        return outcome.refreshed
