"""Many accounts renewed in one run, on any number of threads and beside any number of others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django_ilert_oauth.client import IlertClient
from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet

from .batches import Batches, Leased
from .renewal import Outcome
from .run import Run, RunResult, Stopped


@dataclass
class BulkResult(RunResult):
    """``skipped`` were renewed, or are being renewed, by another caller."""

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
    limit: int | None = None,
    on_progress: Callable[[BulkResult], None] | None = None,
    on_done: Callable[[Any], None] | None = None,
    stop: threading.Event | None = None,
) -> BulkResult:
    """Renews each account; one that fails never stops the rest.

    Requests are spread evenly, ``per_minute`` at the most (``ILERT_OAUTH_REQUESTS_PER_MINUTE``; 0
    for no limit), a 429 pauses all of them. ``retry_reconnect_required`` also asks again for grants
    that ilert refused before. Setting ``stop`` ends the run once the requests under way are
    written. The run ends early where ilert is down, and where it refuses each of the first ten
    grants: then nothing is marked, since the client credentials must be wrong. ``on_done`` is
    called with the key of each account that was renewed, by one thread at a time.

    Raises ``ValueError`` for options that make no sense, and ``TransactionManagementError`` inside
    a transaction.
    """
    batches = Batches(
        queryset, force=force, retry_reconnect_required=retry_reconnect_required, limit=limit
    )
    return _Refreshing(
        batches,
        concurrency=concurrency,
        per_minute=per_minute,
        on_progress=on_progress,
        on_done=on_done,
        stop=stop,
    ).to_its_end()


class _Refreshing(Run[Leased, BulkResult]):
    name = "refresh_many"

    def __init__(self, batches: Batches, **options: Any) -> None:
        super().__init__(BulkResult(), **options)
        self._batches = batches

    def _take(self) -> Leased | None:
        leased = self._batches.next()
        self._result.skipped += self._batches.skipped
        self._batches.skipped = 0
        self._result.failures.update(self._batches.unfit)
        self._batches.unfit.clear()
        return leased

    def _account(self, item: Leased) -> ConnectedAccount:
        return item.account

    def _once(self, item: Leased, client: IlertClient) -> Outcome:
        try:
            self._wait()
        except Stopped:
            item.give_back()
            raise
        if not item.holds():
            return Outcome()
        outcome = self._use_lease(item.account, item.lease_id, client=client)
        # The answer has given the lease back: another try needs one of its own.
        item.good_until = 0
        return outcome

    def _count(self, outcome: Outcome) -> bool:
        self._result.refreshed += outcome.renewed
        self._result.skipped += not outcome.renewed
        return outcome.renewed

    def _let_go(self) -> None:
        self._batches.give_back_rest()
