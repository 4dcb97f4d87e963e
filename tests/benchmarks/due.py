"""Finding the same few due accounts among few and among many."""

from __future__ import annotations

import time
from datetime import timedelta

from django.db import connection
from django.utils import timezone

from django_ilert_oauth.flows._bulk.account_queue import _keys
from django_ilert_oauth.models import ConnectedAccount

from . import rows
from .measuring import spread
from .sizes import Sizes
from .tables import Table

TIMES = 15
NEW_UUID = {"sqlite": "lower(hex(randomblob(16)))", "postgresql": "gen_random_uuid()"}


def measure(sizes: Sizes, url: str, database: str) -> list[Table]:
    few, many = sizes.due_among
    rows.accounts(few, expired=sizes.due)
    among_few = _milliseconds(sizes.due)
    multiply(few - sizes.due, many)
    among_many = _milliseconds(sizes.due)
    ratio = f"{sorted(among_many)[TIMES // 2] / sorted(among_few)[TIMES // 2]:.2f}"
    head = ["database", f"among {few:,}, ms", f"among {many:,}, ms", "ratio"]
    table = Table(f"Finding {sizes.due} due accounts", head)
    table.rows.append([database, spread(among_few, 2), spread(among_many, 2), ratio])
    return [table]


def _milliseconds(expected: int) -> list[float]:
    analyze()
    times = []
    for _ in range(TIMES + 1):
        started = time.perf_counter()
        due = ConnectedAccount.objects.expiring(within=timedelta(minutes=15))
        keys, _one = _keys(due)
        found = sum(1 for _key in keys)
        times.append((time.perf_counter() - started) * 1000)
        if found != expected:
            raise RuntimeError(f"{found} due accounts instead of {expected}")
    return times[1:]


def analyze() -> None:
    """PostgreSQL's autovacuum would see to the statistics; SQLite has none unless asked."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"VACUUM ANALYZE {ConnectedAccount._meta.db_table}")


def multiply(step: int, wanted: int) -> None:
    """Copies accounts that are not due, in SQL, until there are enough."""
    last = ConnectedAccount.objects.order_by("pk").last()
    fields = ConnectedAccount._meta.local_concrete_fields
    names = [str(field.column) for field in fields if not field.primary_key]
    other = {"username": "username || %s", "uuid": NEW_UUID[connection.vendor]}
    copied = [other.get(name, name) for name in names]
    table = ConnectedAccount._meta.db_table
    statement = (
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(copied)} FROM {table} "  # noqa: S608
        "WHERE id <= %s AND access_token_expires_at > %s"
    )
    now = connection.ops.adapt_datetimefield_value(timezone.now())
    assert last is not None
    with connection.cursor() as cursor:
        for copy in range((wanted - step) // step):
            cursor.execute(statement, [f"-{copy}", last.pk, now])
