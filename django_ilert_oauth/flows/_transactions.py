"""A refresh inside the caller's own transaction must survive its rollback.

ilert has refreshed the tokens whatever becomes of the caller. So lease and result are written by a
worker thread: Django gives each thread a connection of its own.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from django.db import ProgrammingError, connections, transaction

from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.internal.rows import account_rows, database
from django_ilert_oauth.models import ConnectedAccount

from ._storing import DATABASE_ERRORS, PAUSE

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Seconds that a second connection is waited for.
CONNECTION_PATIENCE = 2.0


def in_transaction() -> bool:
    """Whether a transaction of the caller is open.

    The test runner's own does not count: what the tests make inside it is seen by nobody else.
    Django has no public name for it.
    """
    caller = connections[database()]
    is_test = any(getattr(block, "_from_testcase", False) for block in caller.atomic_blocks)
    return not (caller.get_autocommit() or is_test)


def has_one_writer() -> bool:
    return connections[database()].vendor == "sqlite"


def warn_of_rollback() -> None:
    logger.warning(
        "An ilert token was refreshed inside a transaction on a row that no other connection can "
        "write or see: a rollback would lose the new token."
    )


def drop_broken_connection() -> None:
    """The next query gets another one. One that works keeps what the caller has set on it.

    Inside a transaction it stays, with all that is open.
    """
    own = connections[database()]
    is_in_transaction = own.in_atomic_block or not own.autocommit
    if own.connection and own.errors_occurred and not (is_in_transaction or own.is_usable()):
        own.close()


@contextmanager
def reconnecting() -> Iterator[None]:
    """A connection that was cut fails one call, and no more, in a process that lives long."""
    try:
        yield
    except DATABASE_ERRORS:
        drop_broken_connection()
        raise


def beside_transaction(account: ConnectedAccount, call: Callable[[], T]) -> T | None:
    """What the call returns in a worker thread, on a connection of its own.

    None, without a call, where that connection does not see the account: the caller has just made
    it, or looks at another schema. Raises ``IlertUnavailableError`` where no second connection can
    be had within two seconds.
    """
    result: Future[T | None] = Future()
    has_looked = threading.Event()
    # Taken by whoever is first: the worker that goes on, or the caller that waits no longer.
    turn = threading.Lock()

    def work() -> T | None:
        try:
            is_seen = _sees(account, has_given_up=turn.locked)
            goes_on = turn.acquire(blocking=False)
            has_looked.set()
            return call() if is_seen and goes_on else None
        finally:
            has_looked.set()
            connections[database()].close()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error.with_traceback(None))

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="ilert").start()
    if not has_looked.wait(CONNECTION_PATIENCE) and turn.acquire(blocking=False):
        raise IlertUnavailableError(
            "No second database connection could be had within two seconds. Refresh the account "
            "before, or outside of, the transaction, or allow more connections.",
            code="busy",
        )
    return result.result()


def _sees(account: ConnectedAccount, *, has_given_up: Callable[[], bool]) -> bool:
    """Connects for as long as the caller waits: a server without a free connection says so at once.

    A connection that looks at another schema may see no table at all.
    """
    rows = account_rows().filter(pk=account.pk, uuid=account.uuid)
    while not has_given_up():
        try:
            transaction.set_autocommit(True, using=database())
            return rows.exists()
        except ProgrammingError:
            return False
        except DATABASE_ERRORS:
            connections[database()].close()
            time.sleep(PAUSE)
    return False
