"""The database server of the tests: what lies before it, and how its sessions begin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Event, Thread, Timer, current_thread
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from django_ilert_oauth.models import ConnectedAccount

from .proxy import TcpProxy

PORTS = {"postgresql": 5432, "mysql": 3306}

needs_server = pytest.mark.skipif(
    connection.vendor not in PORTS, reason="needs PostgreSQL or MariaDB: set DATABASE_URL"
)
needs_postgresql = pytest.mark.skipif(
    connection.vendor != "postgresql", reason="needs PostgreSQL: set DATABASE_URL"
)

#: What the servers send where they have no connection left.
TOO_MANY_CONNECTIONS = {
    "postgresql": b"E\0\0\0\x2dSFATAL\0C53300\0Mtoo many clients already\0\0",
    "mysql": b"\x17\0\0\0\xff\x10\x04Too many connections",
}
READ_ONLY = {
    "postgresql": {"options": "-c default_transaction_read_only=on"},
    "mysql": {"init_command": "SET SESSION tx_read_only=1"},
}


@contextmanager
def changed_settings(**values: Any) -> Iterator[None]:
    """Connections that are opened from now on, in any thread, are opened so."""
    settings = connection.settings_dict
    before = {name: settings[name] for name in values if name in settings}
    connection.close()
    settings.update(values)
    try:
        yield
    finally:
        connection.close()
        for name in values.keys() - before:
            del settings[name]
        settings.update(before)


@contextmanager
def with_options(options: Mapping[str, Any]) -> Iterator[None]:
    with changed_settings(OPTIONS={**connection.settings_dict["OPTIONS"], **options}):
        yield


def fail_over(proxy: TcpProxy, seconds: float) -> None:
    """To a server that is read-only for so long, or until the proxy goes."""
    settings = connection.settings_dict
    writable = settings["OPTIONS"]
    read_only = settings["OPTIONS"] = {**writable, **READ_ONLY[connection.vendor]}

    def recover() -> None:
        if settings["OPTIONS"] is read_only:
            settings["OPTIONS"] = writable

    proxy.cut()
    Timer(seconds, recover).start()


@contextmanager
def proxy_before_database() -> Iterator[TcpProxy]:
    settings = connection.settings_dict
    port = int(settings["PORT"] or PORTS[connection.vendor])
    proxy = TcpProxy((settings["HOST"] or "127.0.0.1", port))
    own = {"HOST": "127.0.0.1", "PORT": str(proxy.port), "OPTIONS": settings["OPTIONS"]}
    with changed_settings(**own):
        try:
            yield proxy
        finally:
            connection.close()
            proxy.close()


@contextmanager
def before_statement(number: int, act: Callable[[], Any]) -> Iterator[list[str]]:
    """Acts before a statement of this thread or of the worker threads of the app, counted from 1.

    Gives all that were sent.
    """
    statements: list[str] = []

    def count(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        statements.append(sql)
        if len(statements) == number:
            act()
        return execute(sql, *args)

    def watch(connection: BaseDatabaseWrapper, **_kwargs: Any) -> None:
        if current_thread().name == "ilert" and count not in connection.execute_wrappers:
            connection.execute_wrappers.append(count)

    connection_created.connect(watch)
    try:
        with connection.execute_wrapper(count):
            yield statements
    finally:
        connection_created.disconnect(watch)


class RowLock:
    """A row that a connection of somebody else has locked."""

    def __init__(self, account: ConnectedAccount) -> None:
        self._account = account
        self._is_taken = Event()
        self._is_over = Event()
        self._thread = Thread(target=self._hold)

    def take(self) -> None:
        self._thread.start()
        assert self._is_taken.wait(10)

    def release(self) -> None:
        self._is_over.set()
        self._thread.join()

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_exc: object) -> None:
        self.release()

    def _hold(self) -> None:
        try:
            with transaction.atomic():
                self._lock()
                self._is_taken.set()
                self._is_over.wait(60)
        finally:
            connections.close_all()

    def _lock(self) -> None:
        ConnectedAccount.objects.select_for_update().get(pk=self._account.pk)


class TableLock(RowLock):
    """Of the complete table, as a migration takes it."""

    STATEMENTS = {
        "postgresql": "LOCK TABLE ilert_oauth_connectedaccount IN ACCESS EXCLUSIVE MODE",
        "mysql": "LOCK TABLES ilert_oauth_connectedaccount WRITE",
    }

    def _lock(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(self.STATEMENTS[connection.vendor])
