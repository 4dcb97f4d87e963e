"""Who may refresh an account.

A lease is won by one conditional ``UPDATE``, on any database, by one caller. It outlasts a request
and the storing of its response; where its holder dies it lapses and another caller carries on. Its
times are the database's own, so hosts may disagree about theirs.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, InterfaceError, connections

from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import ReconnectRequiredError
from django_ilert_oauth.internal.db import DatabaseTime, moment, update_row
from django_ilert_oauth.internal.rows import TOKEN_COLUMNS, account_rows, columns, database, row_of
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.models.account import GRANT_COLUMNS
from django_ilert_oauth.oauth.transport import clock

#: Seconds that are left to store a response which came at the last moment.
STORING_SECONDS = 15.0

NO_LEASE: dict[str, Any] = {"lease_id": "", "lease_ends_ms": 0}
#: What a snapshot reads, with the name, which ilert may have changed.
SEEN_COLUMNS = [*GRANT_COLUMNS, "tenant_id", "username"]


#: The threads that hold the leases under which this process makes requests, by ``lease_id``.
_holders: dict[str, int] = {}
#: The thread that waits for this one.
_waiting_thread: ContextVar[int | None] = ContextVar("waiting_thread", default=None)


@dataclass(frozen=True)
class Snapshot:
    """A row as it was read, when that was, and whether another caller held its lease then."""

    account: ConnectedAccount
    milliseconds: int
    is_leased: bool
    at: float
    #: Leases that may have been taken before the connection was cut.
    in_doubt: list[Lease] = field(default_factory=list)

    @property
    def now(self) -> datetime:
        """The database's time."""
        return moment(self.milliseconds) + timedelta(seconds=clock() - self.at)


@dataclass(frozen=True)
class Lease:
    """``request_by`` and ``ends`` are moments of ``clock()``, ``connection`` is what took it."""

    id: str
    snapshot: Snapshot
    request_by: float
    ends: float
    connection: Any = field(default=None, repr=False)

    @property
    def account(self) -> ConnectedAccount:
        return self.snapshot.account


def reload(account: ConnectedAccount) -> Snapshot:
    """Brings the object up to date. Raises ``ReconnectRequiredError`` for a deleted row."""
    at = clock()
    row = row_of(account).annotate(_now=DatabaseTime()).values(*SEEN_COLUMNS, "_now").first()
    if row is None:
        raise ReconnectRequiredError("The account was deleted; the user has to connect again.")
    now = row.pop("_now")
    account.take_stored(row)
    return Snapshot(account, now, row["lease_ends_ms"] > now, at)


def read_snapshots(pks: list[Any]) -> list[Snapshot]:
    """In the order of the keys; deleted rows are left out."""
    at = clock()
    rows = account_rows().filter(pk__in=pks).annotate(_now=DatabaseTime())
    found = {row.pk: row for row in rows}
    snapshots = []
    for row in filter(None, map(found.get, pks)):
        now: int = vars(row).pop("_now")
        snapshots.append(Snapshot(row, now, row.lease_ends_ms > now, at))
    return snapshots


def lease_seconds() -> float:
    """How long a lease lasts: for the slowest request, and to store its response."""
    return sum(conf.timeout) + STORING_SECONDS


def take_lease(snapshot: Snapshot) -> Lease | None:
    """None where another caller holds one, the row is locked, or it has changed since then."""
    account, now = snapshot.account, clock()
    ends = now + lease_seconds()
    connection = connections[database()].connection
    lease = Lease(secrets.token_hex(16), snapshot, ends - STORING_SECONDS, ends, connection)
    for earlier in snapshot.in_doubt:
        release(earlier)
    snapshot.in_doubt.append(lease)
    values = {"lease_id": lease.id, "lease_ends_ms": DatabaseTime(int((ends - now) * 1000))}
    free = {"lease_ends_ms__lte": DatabaseTime()}
    seen = columns(account, ["uuid", "status", *TOKEN_COLUMNS])
    is_taken = update_row(account, values, {**seen, **free}, using=database())
    snapshot.in_doubt.clear()
    return lease if is_taken else None


@contextmanager
def in_use(lease: Lease) -> Iterator[None]:
    """While the caller makes a request under the lease, and stores the response."""
    _holders[lease.id] = _this_thread()
    try:
        yield
    finally:
        del _holders[lease.id]


def is_in_use_here(account: ConnectedAccount) -> bool:
    """Whether the caller has to store a response first: it would wait for itself."""
    return _holders.get(account.lease_id) == _this_thread()


def context_of_worker() -> Context:
    """For a worker thread that this one waits for: what holds this one up holds up both."""
    context = copy_context()
    context.run(_waiting_thread.set, _this_thread())
    return context


def _this_thread() -> int:
    return _waiting_thread.get() or threading.get_ident()


def release(lease: Lease) -> None:
    with suppress(DatabaseError, InterfaceError):
        condition = {"uuid": lease.account.uuid, "lease_id": lease.id}
        update_row(lease.account, NO_LEASE, condition, using=database())
