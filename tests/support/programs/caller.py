"""A process that asks for the token of an account, and can be stopped at either end of its request.

Forked from a server that has imported Django already, so that eight of them start at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import requests
from django.conf import settings
from django.db import connection, connections
from requests.adapters import HTTPAdapter

from django_ilert_oauth import flows, signals
from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import IlertOAuthError
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth import transport

PATIENCE = 60
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Order:
    """``hold`` stops the process "before" or "after" its request, until it is told to go on."""

    pk: int
    hold: str
    database: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Result:
    token: str = field(default="", repr=False)
    error: str = ""
    signals: tuple[str, ...] = ()


class Caller:
    """``go`` lets it on from where it waits: at the start, or at its request's end."""

    def __init__(self, order: Order) -> None:
        self._pipe, far_end = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_carry_out, args=(order, far_end), daemon=True)
        self._process.start()
        far_end.close()
        self.until("ready")

    def go(self) -> None:
        self._pipe.send("go")

    def until(self, point: str) -> None:
        assert self._hear() == point

    def result(self) -> Result:
        result = self._hear()
        assert isinstance(result, Result)
        return result

    def signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()
        self._process.join(PATIENCE)

    def end(self) -> None:
        self.kill()
        self._process.close()
        self._pipe.close()

    def _hear(self) -> Any:
        assert self._pipe.poll(PATIENCE)
        return self._pipe.recv()


@contextmanager
def callers(account: ConnectedAccount, count: int = 1, hold: str = "") -> Iterator[list[Caller]]:
    """They have read the account as it is now, and wait for ``go``."""
    names = ["API_URL", "TIMEOUT"]
    chosen = {
        f"ILERT_OAUTH_{name}": getattr(settings, f"ILERT_OAUTH_{name}")
        for name in names
        if hasattr(settings, f"ILERT_OAUTH_{name}")
    }
    order = Order(account.pk, hold, str(connection.settings_dict["NAME"]), chosen)
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            started.append(Caller(order))
            stack.callback(started[-1].end)
        yield started


class _Holding(HTTPAdapter):
    def __init__(self, point: str, pipe: Connection[Any, Any]) -> None:
        super().__init__()
        self._point = point
        self._pipe = pipe

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        self._stop("before")
        response = super().send(*args, **kwargs)
        self._stop("after")
        return response

    def _stop(self, point: str) -> None:
        if point == self._point:
            self._pipe.send(point)
            self._pipe.recv()


def _carry_out(order: Order, pipe: Connection[Any, Any]) -> None:
    connections.settings["default"]["NAME"] = order.database
    for name, value in order.settings.items():
        setattr(settings, name, value)
    transport.adapters[conf.api_url] = _Holding(order.hold, pipe)
    account = ConnectedAccount.objects.get(pk=order.pk)
    pipe.send("ready")
    pipe.recv()
    pipe.send(_result(account))


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
