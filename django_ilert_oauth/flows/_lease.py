"""Who may refresh an account.

A lease is won by one conditional ``UPDATE``, on any database, by one caller. It outlasts a request
and the storing of its response; where its holder dies it lapses and another caller carries on. Its
times are the database's own, so hosts may disagree about theirs.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, InterfaceError, connections

from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import ReconnectRequiredError
from django_ilert_oauth.internal.db import DatabaseTime, moment, update_row
from django_ilert_oauth.internal.rows import TOKEN_COLUMNS, account_rows, columns, database
from django_ilert_oauth.models import GRANT_COLUMNS, ConnectedAccount
from django_ilert_oauth.oauth.transport import clock

#: Seconds that are left to store a response which came at the last moment.
STORING_SECONDS = 15.0

NO_LEASE: dict[str, Any] = {"lease_id": "", "lease_ends_ms": 0}
#: What each look reads, with the name, which ilert may have changed.
SEEN_COLUMNS = [*GRANT_COLUMNS, "tenant_id", "username"]


@dataclass(frozen=True)
class Look:
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
    look: Look
    request_by: float
    ends: float
    connection: Any = field(default=None, repr=False)

    @property
    def account(self) -> ConnectedAccount:
        return self.look.account


def look_at(account: ConnectedAccount) -> Look:
    """Brings the object up to date. Raises ``ReconnectRequiredError`` for a deleted row."""
    at = clock()
    rows = account_rows().filter(pk=account.pk, uuid=account.uuid)
    row = rows.annotate(_now=DatabaseTime()).values(*SEEN_COLUMNS, "_now").first()
    if row is None:
        raise ReconnectRequiredError("The account was deleted; the user has to connect again.")
    now = row.pop("_now")
    account.take_stored(row)
    return Look(account, now, row["lease_ends_ms"] > now, at)


def look_at_many(pks: list[Any]) -> list[Look]:
    """In the order of the keys; deleted rows are left out."""
    at = clock()
    rows = account_rows().filter(pk__in=pks).annotate(_now=DatabaseTime())
    found = {row.pk: row for row in rows}
    looks = []
    for row in filter(None, map(found.get, pks)):
        now: int = vars(row).pop("_now")
        looks.append(Look(row, now, row.lease_ends_ms > now, at))
    return looks


def take_lease(look: Look) -> Lease | None:
    """None where another caller holds one, the row is locked, or it has changed since the look."""
    account, now = look.account, clock()
    request_by = now + sum(conf.timeout)
    ends = request_by + STORING_SECONDS
    connection = connections[database()].connection
    lease = Lease(secrets.token_hex(16), look, request_by, ends, connection)
    for earlier in look.in_doubt:
        release(earlier)
    look.in_doubt.append(lease)
    values = {"lease_id": lease.id, "lease_ends_ms": DatabaseTime(int((ends - now) * 1000))}
    free = {"lease_ends_ms__lte": DatabaseTime()}
    seen = columns(account, ["uuid", "status", *TOKEN_COLUMNS])
    is_taken = update_row(account, values, {**seen, **free}, using=database())
    look.in_doubt.clear()
    return lease if is_taken else None


def release(lease: Lease) -> None:
    with suppress(DatabaseError, InterfaceError):
        condition = {"uuid": lease.account.uuid, "lease_id": lease.id}
        update_row(lease.account, NO_LEASE, condition, using=database())
