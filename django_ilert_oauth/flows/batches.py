"""Many leases won at once."""

from __future__ import annotations

import random
import time
from array import array
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone

from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import EndpointMismatchError, ReconnectRequiredError
from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet, Status

from .base import account_rows, database
from .first_answers import ENOUGH
from .lease import give_back, new_lease, take_lease

#: So many at once: few queries, and little for others to wait for where a run dies.
SIZE = 100
#: Seconds that a batch may take; what is left by then is leased again, one by one.
SECONDS = 60.0


@dataclass
class Leased:
    account: ConnectedAccount
    lease_id: str
    good_until: float

    def holds(self) -> bool:
        """Whether a request may be made, leasing anew if it must."""
        if time.monotonic() > self.good_until:
            self.give_back()
            self.lease_id = take_lease(self.account)
            self.good_until = time.monotonic() + 1
        return self.lease_id != ""

    def give_back(self) -> None:
        give_back(self.lease_id, [self.account.pk])


class Batches:
    """The accounts of a queryset, in the order of their keys, leased a batch at a time.

    The keys are found by one query, eight bytes each; rows are read only as they are leased. A
    batch is leased under the very condition it was found by, so what another run has renewed
    meanwhile drops out.
    """

    def __init__(
        self,
        queryset: ConnectedAccountQuerySet,
        *,
        force: bool,
        retry_reconnect_required: bool,
        limit: int | None,
    ) -> None:
        self._queryset = queryset.using(database())
        self._statuses = {Status.CONNECTED}
        if retry_reconnect_required:
            self._statuses.add(Status.RECONNECT_REQUIRED)
        self._interval = timedelta(0) if force else conf.min_refresh_interval
        self._left = limit
        self._pks: array[int] | None = None
        self._next = 0
        self._batch: deque[Leased] = deque()
        #: Found and not leased: another caller has them, or has just renewed them.
        self.skipped = 0
        #: Found and not to be asked for: their codes, by pk.
        self.unfit: dict[Any, str] = {}

    def next(self) -> Leased | None:
        """None after the last."""
        if self._pks is None:
            self._pks = _keys(self._queryset)
        while not self._batch and self._next < len(self._pks) and self._left != 0:
            size = SIZE if self._left is None else min(SIZE, self._left)
            pks = self._pks[self._next : self._next + size].tolist()
            self._next += size
            self._lease(pks)
        return self._batch.popleft() if self._batch else None

    def give_back_rest(self) -> None:
        if self._batch:
            give_back(self._batch[0].lease_id, [leased.account.pk for leased in self._batch])
        self._batch.clear()

    def _lease(self, pks: list[int]) -> None:
        lease = new_lease(SECONDS)
        good_until = time.monotonic() + SECONDS
        self._leasable(pks).update(**lease)
        rows = account_rows().filter(pk__in=pks, lease_id=lease["lease_id"])
        accounts = {account.pk: account for account in rows}
        self._batch.extend(
            Leased(accounts[pk], lease["lease_id"], good_until) for pk in pks if pk in accounts
        )
        if self._left is not None:
            self._left -= len(self._batch)
        if missing := set(pks).difference(accounts):
            self._explain(missing)

    def _leasable(self, pks: list[int]) -> ConnectedAccountQuerySet:
        latest = timezone.now() - self._interval
        early = Q(refreshed_at__isnull=True) | Q(refreshed_at__lte=latest)
        rows = self._queryset.filter(early, pk__in=pks, api_url=conf.api_url)
        return rows.filter(status__in=self._statuses).unleased()

    def _explain(self, pks: set[int]) -> None:
        rows = account_rows().filter(pk__in=pks).values_list("pk", "status", "api_url")
        codes = {pk: self._unfitness(status, api_url) for pk, status, api_url in rows}
        self.unfit.update({pk: code for pk, code in codes.items() if code})
        self.skipped += len(pks) - sum(map(bool, codes.values()))

    def _unfitness(self, status: str, api_url: str) -> str:
        if status not in self._statuses:
            return ReconnectRequiredError.code
        return "" if api_url == conf.api_url else EndpointMismatchError.code


def _keys(queryset: ConnectedAccountQuerySet) -> array[int]:
    """Sorted here: in the order of its key, a database reads the whole table to find a few."""
    unordered = queryset.order_by().values_list("pk", flat=True)
    keys = array("q", sorted(unordered.iterator(chunk_size=2000)))
    _call_witnesses(keys)
    return keys


def _call_witnesses(keys: array[int]) -> None:
    """Puts two of all the others among the first answers.

    Else grants that have ended together, and stand together, would be taken for wrong credentials
    at every run, and nobody behind them would be renewed.
    """
    for place in (ENOUGH - 2, ENOUGH - 1):
        if place < len(keys):
            other = random.randrange(place, len(keys))  # noqa: S311
            keys[place], keys[other] = keys[other], keys[place]
