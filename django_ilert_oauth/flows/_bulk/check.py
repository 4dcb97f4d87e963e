"""Many accounts checked in one run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from django_ilert_oauth.exceptions import IlertOAuthError
from django_ilert_oauth.flows._check import check_steps
from django_ilert_oauth.flows._lease import Snapshot
from django_ilert_oauth.flows._refresh import is_too_early, refresh_steps
from django_ilert_oauth.flows._refresh_request import Outcome, Requester
from django_ilert_oauth.flows._steps import Steps
from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet

from .account_queue import AccountQueue
from .run_result import RunResult
from .runner import MAX_ATTEMPTS, Run


@dataclass
class CheckResult(RunResult):
    """The result of ``check_many``.

    ``changed`` of the ``checked`` accounts had another tenant, username or scope at ilert.
    ``failures``, ``failed`` and ``stopped`` are as in ``BulkResult``.
    """

    checked: int = 0
    changed: int = 0

    @property
    def done(self) -> int:
        return self.checked + self.failed


def check_many(
    queryset: ConnectedAccountQuerySet,
    *,
    concurrency: int = 4,
    per_minute: int | None = None,
    mark_ended: bool = False,
    limit: int | None = None,
    on_progress: Callable[[CheckResult], None] | None = None,
    on_done: Callable[[Any], None] | None = None,
    stop: threading.Event | None = None,
) -> CheckResult:
    """Checks each account once, as ``check`` does; one failure never stops the rest.

    Options, rate limit, early ends and exceptions are those of ``refresh_many``. If a token has to
    be refreshed first, an ``invalid_grant`` is treated as it is there.
    """
    return _Checking(
        CheckResult(),
        partial(AccountQueue, queryset),
        concurrency=concurrency,
        per_minute=per_minute,
        mark_ended=mark_ended,
        limit=limit,
        on_progress=on_progress,
        on_done=on_done,
        stop=stop,
    ).execute()


class _Checking(Run[CheckResult]):
    name = "check_many"

    def _next(self) -> Snapshot | None:
        return self._queue.next()

    def _steps(self, snapshot: Snapshot, requester: Requester) -> Steps[Outcome | None]:
        for _ in range(MAX_ATTEMPTS):
            outcome = yield from self._check(snapshot, requester)
            if not self._pause_after(snapshot.account, outcome):
                break
        return outcome

    def _check(self, snapshot: Snapshot, requester: Requester) -> Steps[Outcome]:
        refresh = partial(self._refresh, requester)
        try:
            has_changed = yield from check_steps(snapshot.account, requester, refresh)
        except IlertOAuthError as error:
            return Outcome(error=error.with_traceback(None))
        self._result.changed += has_changed
        return Outcome()

    def _refresh(self, requester: Requester, account: ConnectedAccount) -> Steps[Outcome]:
        outcome = yield from refresh_steps(account, requester, is_too_early)
        if outcome.refreshed:
            self._state_of(account).guard.succeeded()
        return outcome

    def _count(self, outcome: Outcome) -> bool:
        self._result.checked += 1
        return True
