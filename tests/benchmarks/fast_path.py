"""A fresh token against one plain decryption of the same ciphertext."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from cryptography.fernet import Fernet
from django.db import connection
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.models import ConnectedAccount

from . import rows
from .measuring import spread
from .sizes import Sizes
from .tables import Table

CALLS = 2000


def measure(sizes: Sizes, url: str, database: str) -> list[Table]:
    rows.accounts(1)
    account = ConnectedAccount.objects.get()
    account.access_token_expires_at = timezone.now() + timedelta(hours=1)
    fernet = Fernet(Fernet.generate_key())
    ciphertext = fernet.encrypt(account.access_token.reveal().encode())
    ours, plain = [], []
    with connection.execute_wrapper(_forbid):
        for _ in range(sizes.rounds):
            ours.append(_microseconds(lambda: flows.get_access_token(account)))
            plain.append(_microseconds(lambda: fernet.decrypt(ciphertext)))
    ratios = [mine / theirs for mine, theirs in zip(ours, plain, strict=True)]
    head = ["database", "get_access_token, us", "plain decryption, us", "ratio", "queries"]
    table = Table("The fast path", head)
    table.rows.append([database, spread(ours, 1), spread(plain, 1), spread(ratios, 2), "0"])
    return [table]


def _microseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - started) / CALLS * 1e6


def _forbid(*_query: object) -> None:
    raise RuntimeError("The fast path made a query.")
