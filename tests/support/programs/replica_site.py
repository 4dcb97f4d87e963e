"""Refreshes an account in each way on the site of ``replica_settings``, and prints what happened.

Run with the refresh token that ilert knows; the replica has an older one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connections, transaction
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.conf import conf
from django_ilert_oauth.models import ConnectedAccount

Way = Callable[[ConnectedAccount], object]


def get_access_token_in_a_transaction(account: ConnectedAccount) -> None:
    with transaction.atomic():
        flows.get_access_token(account)


def command(**options: Any) -> None:
    call_command("refresh_ilert_tokens", json=True, stdout=sys.stderr, **options)


WAYS: dict[str, Way] = {
    "get_access_token": flows.get_access_token,
    "get_access_token in a transaction": get_access_token_in_a_transaction,
    "refresh": flows.refresh,
    "refresh by force": lambda account: flows.refresh(account, force=True),
    "refresh_many": lambda _account: flows.refresh_many(ConnectedAccount.objects.all()),
    "command": lambda _account: command(),
    "command for one": lambda account: command(account=[account.pk]),
}


def store(alias: str, tokens: tuple[str, str], expires_at: Any) -> None:
    user, _created = User.objects.using(alias).get_or_create(pk=1, username="site-user")
    row, _created = ConnectedAccount.objects.using(alias).get_or_create(
        pk=1, uuid=UUID(int=1), user=user, api_url=conf.api_url, tenant_id="acme", username="grace"
    )
    row.access_token, row.refresh_token = tokens
    row.access_token_expires_at, row.refreshed_at = expires_at, None
    row.save(using=alias)


def try_out(way: Way, refresh_token: str, expires_at: Any) -> dict[str, Any]:
    store("replica", ("stale-access", "stale-refresh"), timezone.now())
    store("default", ("live-access", refresh_token), expires_at)
    account = ConnectedAccount.objects.get()
    queries: list[str] = []

    def record(execute: Any, sql: str, *args: Any) -> Any:
        queries.append(sql)
        return execute(sql, *args)

    with connections["replica"].execute_wrapper(record):
        way(account)
    stored = ConnectedAccount.objects.using("default").get()
    return {
        "queries to the replica": queries,
        "is refreshed": stored.access_token != "live-access",
        "is told": account.access_token == stored.access_token,
    }


def main(refresh_token: str) -> dict[str, Any]:
    for alias in connections:
        call_command("migrate", database=alias, verbosity=0)
    soon, later = timezone.now(), timezone.now() + timedelta(hours=1)
    due = {name: try_out(way, refresh_token, soon) for name, way in WAYS.items()}
    get_access_token = try_out(flows.get_access_token, refresh_token, later)
    return {"due": due, "refreshed meanwhile": get_access_token}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1])))
