"""Other callers in threads with connections of their own, and what the tests see of a row."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from threading import Barrier
from typing import Any, TypeVar

import requests
from django.db import connections
from django.db.models import F
from requests.adapters import HTTPAdapter

from django_ilert_oauth.flows.lease import lease_seconds
from django_ilert_oauth.models import ConnectedAccount

T = TypeVar("T")

TOKEN_COLUMNS = [
    "access_token_ciphertext",
    "refresh_token_ciphertext",
    "access_token_expires_at",
    "refresh_token_expires_at",
]


def stored(account: ConnectedAccount, *columns: str) -> dict[str, Any]:
    row: dict[str, Any] = ConnectedAccount.objects.values(*columns or TOKEN_COLUMNS).get(
        pk=account.pk
    )
    return row


def stored_tokens(account: ConnectedAccount) -> tuple[str, str]:
    row = ConnectedAccount.objects.get(pk=account.pk)
    return str(row.access_token), str(row.refresh_token)


def lapse_leases() -> None:
    """As if the time of every lease had passed."""
    length = int(lease_seconds() * 1000)
    ConnectedAccount.objects.update(lease_ends_ms=F("lease_ends_ms") - length)


def at_once(count: int, call: Callable[[int], T]) -> list[T | Exception]:
    """What each of so many threads, let go together, returned or raised."""
    barrier = Barrier(count)

    def run(number: int) -> T | Exception:
        barrier.wait()
        try:
            return call(number)
        except Exception as error:
            return error
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def beside(call: Callable[[], T]) -> T:
    """On a connection that is not the caller's."""
    [result] = at_once(1, lambda _number: call())
    if isinstance(result, Exception):
        raise result
    return result


def copies(account: ConnectedAccount, count: int) -> list[ConnectedAccount]:
    return [copy(account) for _ in range(count)]


class Acting(HTTPAdapter):
    """Acts before the first request is sent, or once its answer has come."""

    def __init__(
        self,
        *,
        before: Callable[[], object] | None = None,
        after: Callable[[], object] | None = None,
    ) -> None:
        super().__init__()
        self._before = before
        self._after = after

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        before, self._before = self._before, None
        after, self._after = self._after, None
        if before:
            before()
        response = super().send(*args, **kwargs)
        if after:
            after()
        return response
