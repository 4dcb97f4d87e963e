"""How all accounts are, and what the site holds about those of one user."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any

from django.db.models import Count, Min, Q

from django_ilert_oauth.conf import conf
from django_ilert_oauth.internal.db import database_now
from django_ilert_oauth.internal.rows import (
    TOKEN_COLUMNS,
    account_rows,
    columns,
    database,
    pending_revocations,
)
from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet, LastRun, Status
from django_ilert_oauth.models.queryset import DUE_WITHIN, ENDING_WITHIN, UNKNOWN_EXPIRY

from ._lease import NO_LEASE
from ._revocation import open_revocations

EVENT_COLUMNS = ["at", "kind", "by", "code", "reference", "client_id"]
REVOCATION_COLUMNS = ["created_at", "attempts", "last_error", "given_up_at"]


@dataclass(frozen=True)
class Health:
    """Counts of accounts, for monitoring.

    The access tokens of ``due`` accounts expire within 15 minutes or at an unknown time; those of
    ``overdue`` accounts have expired, the first of them at ``overdue_since``. Both count only
    accounts of the configured clients. ``failing`` accounts are connected, but their last refresh
    or check failed; ``oldest_failure`` is the earliest time of these failures.
    """

    connected: int
    due: int
    overdue: int
    overdue_since: datetime | None
    needs_reconnecting: int
    failing: int
    oldest_failure: datetime | None
    #: Connected accounts whose grant ends within 30 days.
    ending: int
    pending_revocations: int
    #: When a run of each kind (``refresh``, ``queue``, ``check``, ``rotate``) last ended.
    last_runs: dict[str, datetime] = field(default_factory=dict)


def health(accounts: ConnectedAccountQuerySet | None = None) -> Health:
    """Returns the counts of these accounts, or of all.

    It takes a few queries, each of which reads no more of an index than it counts.
    """
    now = database_now(database())
    accounts = account_rows() if accounts is None else accounts
    connected = accounts.connected()
    ours = connected.filter(of_configured_clients())
    unknown = ours.filter(UNKNOWN_EXPIRY).count()
    overdue = access_has_expired(now)
    return Health(
        connected=connected.count(),
        needs_reconnecting=accounts.filter(status=Status.RECONNECT_REQUIRED).count(),
        ending=connected.filter(grant_ends_within(ENDING_WITHIN, now)).count(),
        pending_revocations=open_revocations().count(),
        last_runs=dict(LastRun.objects.using(database()).values_list("kind", "at")),
        **connected.filter(HAS_FAILED).aggregate(
            failing=Count("pk"), oldest_failure=Min("last_error_at")
        ),
        **ours.filter(access_token_expires_at__lte=now + DUE_WITHIN).aggregate(
            due=Count("pk") + unknown,
            overdue=Count("pk", filter=overdue),
            overdue_since=Min("access_token_expires_at", filter=overdue),
        ),
    )


#: The time is in an index, so that few rows are read of many.
HAS_FAILED = Q(last_error_at__isnull=False) & ~Q(last_error="")


def access_has_expired(now: datetime) -> Q:
    return Q(access_token_expires_at__lte=now)


def grant_ends_within(time: timedelta, now: datetime) -> Q:
    return Q(refresh_token_expires_at__lte=now + time)


def of_configured_clients() -> Q:
    """Grants of others are neither refreshed nor missed."""
    keys = (Q(api_url=api_url, client_id=client_id) for api_url, client_id in conf.client_keys())
    return reduce(or_, keys)


def export(user: Any) -> list[dict[str, Any]]:
    """Returns a dict for each account of the user, with its history and no part of a token."""
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
