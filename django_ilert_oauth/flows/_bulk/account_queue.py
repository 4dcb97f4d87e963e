"""Which accounts a run asks for, and in which order: what failed before goes last."""

from __future__ import annotations

import logging
from array import array
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from itertools import chain, groupby, islice
from uuid import UUID

from django.db import DataError, connections

from django_ilert_oauth.flows._lease import Look, look_at_many
from django_ilert_oauth.internal.rows import PAGE, account_rows, database
from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet

logger = logging.getLogger(__name__)


class AccountQueue:
    """The accounts of a queryset, each once, however it joins, slices or annotates.

    The keys are found by one query, eight bytes each; rows are read a page at a time.
    """

    def __init__(self, queryset: ConnectedAccountQuerySet) -> None:
        self._keys, self._sample = _keys(queryset.using(database()))
        self._connection = connections[database()].connection
        self._page: deque[Look] = deque()
        #: Kept until their rows have been read: the database may fail meanwhile.
        self._unread: list[int] = []
        self._later: deque[ConnectedAccount] = deque()
        #: Found, and deleted before they were read.
        self.deleted = 0

    def next(self) -> Look | None:
        """None after the last. Raises ``DataError`` once other rows are seen under the keys."""
        self._require_same_rows()
        while not self._page:
            self._unread = self._unread or self._next_keys()
            if not self._unread:
                return None
            looks = look_at_many(self._unread)
            self._require_same_rows()
            self._page.extend(looks)
            self.deleted += len(self._unread) - len(self._page)
            self._unread = []
        return self._page.popleft()

    def _require_same_rows(self) -> None:
        """A new connection does not have the search path, or the like, that a caller had set."""
        connection = connections[database()]
        connection.ensure_connection()
        if self._sample is None or connection.connection is self._connection:
            return
        pk, uuid = self._sample
        if not account_rows().filter(pk=pk, uuid=uuid).exists():
            logger.error("The connection was cut, and a new one does not see the same accounts.")
            raise DataError("A new connection does not see the same accounts.")
        self._connection = connection.connection

    def _next_keys(self) -> list[int]:
        if keys := list(islice(self._keys, PAGE)):
            return keys
        return [self._later.popleft().pk for _ in range(min(len(self._later), PAGE))]

    def put_last(self, account: ConnectedAccount) -> None:
        self._later.append(account)


def _keys(
    queryset: ConnectedAccountQuerySet,
) -> tuple[Iterator[int], tuple[int, UUID] | None]:
    """The keys, and one of them with its row's ``uuid``."""
    healthy = array("q")
    failed: list[tuple[datetime, int]] = []
    sample = None
    rows = queryset.values_list("pk", "uuid", "last_error_at")
    for pk, uuid, error_at in rows.iterator(chunk_size=2000):
        sample = pk, uuid
        if error_at is None:
            healthy.append(pk)
        else:
            failed.append((error_at, pk))
    # A join lists an account once for each row it is joined with.
    unique = array("q", (key for key, _same in groupby(sorted(healthy))))
    return chain(unique, (pk for _at, pk in sorted(set(failed)))), sample
