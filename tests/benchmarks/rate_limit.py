"""The rate that is kept against an ilert that refuses more than 700 requests a minute."""

from __future__ import annotations

from datetime import timedelta

from django_ilert_oauth import flows
from django_ilert_oauth.models import ConnectedAccount

from . import endpoint, rows
from .sizes import Sizes
from .tables import Table

ILERT_LIMIT = 700
LATENCY = 0.05


def measure(sizes: Sizes, url: str, database: str) -> list[Table]:
    count = int(sizes.per_minute * sizes.rate_limit_seconds / 60)
    rows.accounts(count)
    endpoint.restart(url, latency=LATENCY, limit=ILERT_LIMIT)
    due = ConnectedAccount.objects.expiring(within=timedelta(minutes=15))
    result = flows.refresh_many(due, per_minute=sizes.per_minute)
    seen = endpoint.restart(url)
    kept = seen.served / result.seconds * 60
    head = ["database", "chosen", "kept a minute", "of it", "busiest minute", "429s", "seconds"]
    table = Table(f"The rate against a limit of {ILERT_LIMIT} in any rolling minute", head)
    share = f"{kept / sizes.per_minute:.1%}"
    numbers = [f"{kept:.1f}", share, str(seen.busiest), str(seen.refused), f"{result.seconds:.0f}"]
    table.rows.append([database, str(sizes.per_minute), *numbers])
    return [table]
