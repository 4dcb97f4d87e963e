"""Other callers in threads with connections of their own, and what the tests see of a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from threading import Barrier
from typing import Any, TypeVar

import requests
from django.db import connection, connections
from django.db.models import F
from django.dispatch import Signal
from requests.adapters import HTTPAdapter

from django_ilert_oauth.conf import conf
from django_ilert_oauth.flows._lease import STORING_SECONDS, Lease, reload, take_lease
from django_ilert_oauth.models import ConnectedAccount
from ilert_standin import StandIn

T = TypeVar("T")

TOKEN_COLUMNS = [
    "access_token_ciphertext",
    "refresh_token_ciphertext",
    "access_token_expires_at",
    "refresh_token_expires_at",
]


#: The longest that a lease lasts.
LEASE_MS = int((sum(conf.timeout) + STORING_SECONDS) * 1000)


def stored(account: ConnectedAccount, *columns: str) -> dict[str, Any]:
    row: dict[str, Any] = ConnectedAccount.objects.values(*columns or TOKEN_COLUMNS).get(
        pk=account.pk
    )
    return row


def stored_tokens(account: ConnectedAccount) -> tuple[str, str]:
    row = ConnectedAccount.objects.get(pk=account.pk)
    return row.access_token.reveal(), row.refresh_token.reveal()


def held(account: ConnectedAccount) -> Lease:
    """As by a caller whose request is under way."""
    lease = take_lease(reload(account))
    assert lease is not None
    return lease


@contextmanager
def without_autocommit() -> Iterator[None]:
    """A transaction of a caller that commits by hand, rolled back in the end."""
    connection.set_autocommit(False)
    try:
        yield
    finally:
        connection.rollback()
        connection.set_autocommit(True)


def lapse_leases() -> None:
    """As if the time of every lease had passed."""
    ConnectedAccount.objects.update(lease_ends_ms=F("lease_ends_ms") - LEASE_MS)


def at_once(count: int, call: Callable[[int], T]) -> list[T | Exception]:
    """What each of so many threads, started together, returned or raised."""
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


def callers_at_once(
    count: int, account: ConnectedAccount, call: Callable[[ConnectedAccount], T]
) -> list[T | Exception]:
    """Each with a copy of the account."""
    accounts = copies(account, count)
    return at_once(count, lambda number: call(accounts[number]))


@contextmanager
def receiving(signal: Signal, receiver: Callable[..., object]) -> Iterator[None]:
    signal.connect(receiver)
    try:
        yield
    finally:
        signal.disconnect(receiver)


def held_leases() -> int:
    return ConnectedAccount.objects.exclude(lease_id="", lease_ends_ms=0).count()


def revocations_sent(ilert: StandIn) -> list[str]:
    return [made.form["token"] for made in ilert.requests if made.path.endswith("/revoke")]


class Acting(HTTPAdapter):
    """Acts before the first request is sent, or once its response has come; on no caller's thread.

    With ``path``, requests to others are not counted; with ``every_time``, it acts at each.
    """

    def __init__(
        self,
        *,
        before: Callable[[], object] = lambda: None,
        after: Callable[[], object] = lambda: None,
        path: str = "",
        every_time: bool = False,
    ) -> None:
        super().__init__()
        self._acts = (before, after)
        self._path = path
        self._acts_again = every_time
        self._has_acted = False

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        if not self._is_meant(request):
            return super().send(request, *args, **kwargs)
        self._has_acted = True
        before, after = self._acts
        beside(before)
        response = super().send(request, *args, **kwargs)
        beside(after)
        return response

    def _is_meant(self, request: requests.PreparedRequest) -> bool:
        is_due = self._acts_again or not self._has_acted
        return is_due and self._path in ("", request.path_url)
