"""What people and commands wait for among a million accounts, and how the database finds it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta

from django.contrib.auth.models import User
from django.db import connection
from django.db.models.functions import Mod
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.flows._bulk.account_queue import AccountQueue
from django_ilert_oauth.internal.rows import PAGE
from django_ilert_oauth.models import ConnectedAccount

from . import rows
from .due import analyze, multiply
from .measuring import spread
from .sizes import Sizes
from .tables import Table

ADMIN = "/admin/ilert_oauth/connectedaccount/"
OVERDUE = f"{ADMIN}?status__exact=connected&expiring=overdue"
Parts = dict[str, Callable[[], object]]


def measure(sizes: Sizes, url: str, database: str) -> list[Table]:
    due, many = sizes.large
    rows.accounts(due, expired=1)
    multiply(due - 1, many)
    _spread_out(due, many)
    analyze()
    administrator = Client()
    administrator.force_login(User.objects.create_superuser("administrator"))
    table = Table(f"Among {many:,} accounts, {due:,} of them due", ["database", "what", "ms"])
    for name, call in _parts(administrator).items():
        table.rows.append([database, name, spread(_milliseconds(call, sizes.rounds), 0)])
        _explain(name, call)
    return [table]


def _spread_out(due: int, many: int) -> None:
    soon = timezone.now() + timedelta(minutes=5)
    every = ConnectedAccount.objects.annotate(rest=Mod("pk", many // due)).filter(rest=0)
    every.update(access_token_expires_at=soon)


def _parts(administrator: Client) -> Parts:
    accounts = ConnectedAccount.objects
    expiring = accounts.expiring(within=timedelta(minutes=15))
    return {
        "the first account of a run": lambda: AccountQueue(expiring.all()).next(),
        "the admin's list": lambda: administrator.get(ADMIN),
        "the admin's list, a filter": lambda: administrator.get(
            f"{ADMIN}?status__exact=connected&expiring=overdue"
        ),
        "flows.health()": flows.health,
        "a page of rotate_keys()": lambda: list(accounts.order_by("pk").filter(pk__gt=PAGE)[:PAGE]),
        "a page of with_scopes()": lambda: list(accounts.with_scopes("source:w")[:PAGE]),
    }


def _milliseconds(call: Callable[[], object], rounds: int) -> list[float]:
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1000)
    return times[1:]


def _explain(name: str, call: Callable[[], object]) -> None:
    with CaptureQueriesContext(connection) as queries:
        call()
    for query in queries:
        if query["sql"].startswith("SELECT") and "ilert_oauth_connectedaccount" in query["sql"]:
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN ANALYZE {query['sql']}")
                plan = "\n".join(str(row[0]) for row in cursor.fetchall())
            print(f"{name}: {query['sql']}\n{plan}\n", file=sys.stderr)
