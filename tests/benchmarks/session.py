"""``IlertSession.get`` against a plain session of ``requests`` with the token in its headers."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import requests
from django.utils import timezone

from django_ilert_oauth.conf import conf
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.session import IlertSession

from . import rows
from .measuring import spread
from .sizes import Sizes
from .tables import Table

CALLS = 100
#: Short runs: the machine's other work comes and goes, and each two are compared.
RUNS_PER_ROUND = 10
#: What the endpoint has for a GET.
QUERY = {"latency": "0", "limit": "0"}


def measure(sizes: Sizes, url: str, database: str) -> list[Table]:
    rows.accounts(1)
    account = ConnectedAccount.objects.get()
    account.access_token_expires_at = timezone.now() + timedelta(hours=1)
    ours, plain = [], []
    with IlertSession(account) as session, requests.Session() as session_of_requests:
        session_of_requests.headers["Authorization"] = f"Bearer {account.access_token.reveal()}"
        for _ in range(sizes.rounds * RUNS_PER_ROUND):
            ours.append(_cpu_microseconds(lambda: session.get("/", params=QUERY)))
            plain.append(
                _cpu_microseconds(
                    lambda: session_of_requests.get(url, params=QUERY, timeout=conf.timeout)
                )
            )
    ratios = [mine / theirs for mine, theirs in zip(ours, plain, strict=True)]
    head = ["database", "IlertSession.get, us of CPU", "requests.Session.get", "ratio"]
    table = Table("A call of ilert's API", head)
    table.rows.append([database, spread(ours), spread(plain), spread(ratios, 2)])
    return [table]


def _cpu_microseconds(call: Callable[[], requests.Response]) -> float:
    """On this side: the endpoint is a process of its own."""
    started = time.process_time()
    for _ in range(CALLS):
        call().raise_for_status()
    return (time.process_time() - started) / CALLS * 1e6
