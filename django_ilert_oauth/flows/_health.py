"""How all accounts are, and what the site holds about those of one user."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any

from django.db.models import Count, Max, Min, Q

from django_ilert_oauth.conf import conf
from django_ilert_oauth.internal.db import database_now
from django_ilert_oauth.internal.rows import (
    TOKEN_COLUMNS,
    account_rows,
    columns,
    database,
    pending_revocations,
)
from django_ilert_oauth.models import ConnectedAccount, Status

from ._lease import NO_LEASE
from ._revocation import open_revocations

#: How long before their expiry tokens are due.
AHEAD = timedelta(minutes=15)
EVENT_COLUMNS = ["at", "kind", "by", "code", "reference", "client_id"]
REVOCATION_COLUMNS = ["created_at", "attempts", "last_error", "given_up_at"]


@dataclass(frozen=True)
class Health:
    """``due`` expire within 15 minutes or at an unknown time, ``overdue`` have expired.

    Both are those of the configured clients. ``failing`` are connected, and their last refresh or
    check has failed; ``oldest_failure`` is when the one among them failed that was asked first.
    """

    connected: int
    due: int
    overdue: int
    overdue_since: datetime | None
    needs_reconnecting: int
    failing: int
    oldest_failure: datetime | None
    pending_revocations: int
    last_refreshed_at: datetime | None


def health() -> Health:
    """By three queries, which only count, for any number of accounts."""
    now = database_now(database())
    connected = Q(status=Status.CONNECTED)
    ours = connected & _of_configured_clients()
    overdue = ours & Q(access_token_expires_at__lt=now)
    unknown = Q(access_token_expires_at__isnull=True)
    failing = connected & ~Q(last_error="")
    counts = account_rows().aggregate(
        connected=Count("pk", filter=connected),
        due=Count("pk", filter=ours & (unknown | Q(access_token_expires_at__lte=now + AHEAD))),
        overdue=Count("pk", filter=overdue),
        overdue_since=Min("access_token_expires_at", filter=overdue),
        needs_reconnecting=Count("pk", filter=Q(status=Status.RECONNECT_REQUIRED)),
        failing=Count("pk", filter=failing),
        oldest_failure=Min("last_error_at", filter=failing),
        last_refreshed_at=Max("refreshed_at"),
    )
    return Health(**counts, pending_revocations=open_revocations().count())


def _of_configured_clients() -> Q:
    keys = (Q(api_url=api_url, client_id=client_id) for api_url, client_id in conf.client_keys())
    return reduce(or_, keys)


def export(user: Any) -> list[dict[str, Any]]:
    """What is held about each account of the user, its history included, and nothing of a token."""
    return [_facts(account) for account in account_rows().for_user(user).order_by("pk")]


def _facts(account: ConnectedAccount) -> dict[str, Any]:
    hidden = {*TOKEN_COLUMNS, *NO_LEASE}
    names = [field.attname for field in account._meta.concrete_fields]
    revocations = pending_revocations().filter(account_uuid=account.uuid)
    return {
        **columns(account, (name for name in names if name not in hidden)),
        "events": list(account.events.values(*EVENT_COLUMNS)),
        "pending_revocations": list(revocations.values(*REVOCATION_COLUMNS)),
    }
