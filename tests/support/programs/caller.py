"""Processes that ask for an account's token, and can be stopped on either side of the request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from django_ilert_oauth import flows, signals
from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import IlertOAuthError
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth import transport
from tests.support.site_processes import SiteProcess, site_process, wait_at


@dataclass(frozen=True)
class Result:
    token: str = field(default="", repr=False)
    error: str = ""
    signals: tuple[str, ...] = ()


@contextmanager
def callers(
    account: ConnectedAccount, count: int = 1, hold: str = ""
) -> Iterator[list[SiteProcess]]:
    """They have read the account as it is now, and wait for ``go``.

    ``hold`` stops them "before" or "after" their request, until they are told to go on.
    """
    with ExitStack() as stack:
        started = [
            stack.enter_context(site_process(get_access_token, account.pk, hold)).go()
            for _ in range(count)
        ]
        for process in started:
            process.until("account read")
        yield started


def get_access_token(pk: int, hold: str) -> Result:
    transport.adapters[conf.api_url] = _Holding(hold)
    account = ConnectedAccount.objects.get(pk=pk)
    wait_at("account read")
    return _result(account)


class _Holding(HTTPAdapter):
    def __init__(self, point: str) -> None:
        super().__init__()
        self._point = point

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        self._stop("before")
        response = super().send(*args, **kwargs)
        self._stop("after")
        return response

    def _stop(self, point: str) -> None:
        if point == self._point:
            wait_at(point)


def _result(account: ConnectedAccount) -> Result:
    sent: list[str] = []

    def on_refreshed(**_kwargs: Any) -> None:
        sent.append("account_refreshed")

    def on_failure(**_kwargs: Any) -> None:
        sent.append("account_refresh_failed")

    def on_revoked(**_kwargs: Any) -> None:
        sent.append("account_revoked")

    signals.account_refreshed.connect(on_refreshed)
    signals.account_refresh_failed.connect(on_failure)
    signals.account_revoked.connect(on_revoked)
    try:
        return Result(token=str(flows.get_access_token(account)), signals=tuple(sent))
    except IlertOAuthError as error:
        return Result(error=error.code, signals=tuple(sent))
