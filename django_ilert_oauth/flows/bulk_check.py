"""Many accounts checked in one run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from django_ilert_oauth.client import IlertClient
from django_ilert_oauth.exceptions import IlertOAuthError
from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet

from .base import in_pages
from .check import Check
from .renewal import Outcome
from .run import Run, RunResult


@dataclass
class CheckResult(RunResult):
    """``changed`` of those ``checked`` had another tenant, username or scope at ilert."""

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
    limit: int | None = None,
    on_progress: Callable[[CheckResult], None] | None = None,
    on_done: Callable[[Any], None] | None = None,
    stop: threading.Event | None = None,
) -> CheckResult:
    """Checks each account; one that fails never stops the rest.

    Paced, stopped and raising as ``refresh_many``, which see: where tokens have to be renewed, the
    first ten refusals count as they do there.
    """
    return _Checking(
        islice(in_pages(queryset), limit),
        concurrency=concurrency,
        per_minute=per_minute,
        on_progress=on_progress,
        on_done=on_done,
        stop=stop,
    ).to_its_end()


class _Checking(Run[ConnectedAccount, CheckResult]):
    name = "check_many"

    def __init__(self, accounts: Iterator[ConnectedAccount], **options: Any) -> None:
        super().__init__(CheckResult(), **options)
        self._accounts = accounts

    def _take(self) -> ConnectedAccount | None:
        return next(self._accounts, None)

    def _account(self, item: ConnectedAccount) -> ConnectedAccount:
        return item

    def _once(self, item: ConnectedAccount, client: IlertClient) -> Outcome:
        check = Check(client, partial(self._use_lease, client=client), self._wait)
        try:
            changed = check.of(item)
        except IlertOAuthError as error:
            return Outcome(error=error.with_traceback(None))
        with self._lock:
            self._result.changed += changed
        return Outcome()

    def _count(self, outcome: Outcome) -> bool:
        self._result.checked += 1
        return True
