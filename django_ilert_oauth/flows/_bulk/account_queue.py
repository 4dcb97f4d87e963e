"""Which accounts a run asks for, and in which order: by expiry, and what failed before last.

``_schedule`` has the same order for queues, in SQL.
"""

from __future__ import annotations

import logging
from array import array
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from itertools import chain, groupby, islice
from math import inf
from uuid import UUID

from django.db import DataError, connections

from django_ilert_oauth.flows._lease import Snapshot, read_snapshots
from django_ilert_oauth.internal.rows import PAGE, account_rows, database
from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet

logger = logging.getLogger(__name__)

#: Some of these rows may be deleted during a run; that all of them are is taken for another schema.
SAMPLE = 100


class AccountQueue:
    """The accounts of a queryset, each once, however it joins, slices or annotates.

    One query finds the keys, which are kept in eight bytes each; rows are read a page at a time.
    """

    def __init__(self, queryset: ConnectedAccountQuerySet) -> None:
        self._keys, self._sample = _keys(queryset.using(database()))
        self._connection = connections[database()].connection
        self._page: deque[Snapshot] = deque()
        #: Kept until their rows have been read: the database may fail meanwhile.
        self._unread: list[int] = []
        self._later: deque[ConnectedAccount] = deque()
        #: Found, and deleted before they were read.
        self.deleted = 0

    def next(self) -> Snapshot | None:
        """None after the last. Raises ``DataError`` once other rows are seen under the keys."""
        self._require_same_rows()
        while not self._page:
            self._unread = self._unread or self._next_keys()
            if not self._unread:
                return None
            snapshots = read_snapshots(self._unread)
            self._require_same_rows()
            self._page.extend(snapshots)
            self.deleted += len(self._unread) - len(self._page)
            self._unread = []
        return self._page.popleft()

    def _require_same_rows(self) -> None:
        """A new connection does not have the search path, or the like, that a caller had set."""
        connection = connections[database()]
        connection.ensure_connection()
        if not self._sample or connection.connection is self._connection:
            return
        if not account_rows().filter(uuid__in=self._sample).exists():
            logger.error("The connection was cut, and a new one does not see the same accounts.")
            raise DataError("A new connection does not see the same accounts.")
        self._connection = connection.connection

    def _next_keys(self) -> list[int]:
        if keys := list(islice(self._keys, PAGE)):
            return keys
        return [self._later.popleft().pk for _ in range(min(len(self._later), PAGE))]

    def put_last(self, account: ConnectedAccount) -> None:
        self._later.append(account)


def _keys(queryset: ConnectedAccountQuerySet) -> tuple[Iterator[int], deque[UUID]]:
    """The keys, and the ``uuid`` of some of their rows."""
    healthy, expiries = array("q"), array("d")
    failed: list[tuple[datetime, int]] = []
    sample: deque[UUID] = deque(maxlen=SAMPLE)
    rows = queryset.values_list("pk", "uuid", "access_token_expires_at", "last_error_at")
    for pk, uuid, expires_at, error_at in rows.iterator(chunk_size=2000):
        sample.append(uuid)
        if error_at is None:
            healthy.append(pk)
            expiries.append(expires_at.timestamp() if expires_at else -inf)
        else:
            failed.append((error_at, pk))
    in_order = sorted(range(len(healthy)), key=lambda number: (expiries[number], healthy[number]))
    # A join lists an account once for each row it is joined with.
    unique = array("q", (key for key, _same in groupby(map(healthy.__getitem__, in_order))))
    return chain(unique, (pk for _at, pk in sorted(set(failed)))), sample
