"""A refresh inside the caller's own transaction must survive its rollback.

ilert has refreshed the tokens whatever becomes of the caller. So lease and result are written by a
worker thread: Django gives each thread a connection of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from django.db import OperationalError, ProgrammingError, connections, transaction

from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.internal.db import is_in_transaction
from django_ilert_oauth.internal.rows import account_rows, database, row_of
from django_ilert_oauth.models import ConnectedAccount

from ._lease import context_of_worker
from ._steps import run_now, until_done
from ._storing import DATABASE_ERRORS, PAUSE

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Rows that others lock or change meanwhile fail a transaction: as a deadlock, or under strict
#: isolation levels.
MAX_ATTEMPTS = 5
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


def warn_of_rollback() -> None:
    logger.warning(
        "An ilert token was refreshed inside a transaction on a row that no other connection can "
        "write or see: a rollback would lose the new token."
    )


def retry_transaction(call: Callable[[], T]) -> T:
    """Repeats a call that is a transaction; inside one of the caller's it is made only once."""
    if is_in_transaction(database()):
        return call()
    for _ in range(MAX_ATTEMPTS - 1):
        with suppress(OperationalError):
            return call()
    return call()


def drop_broken_connection() -> None:
    """The next query gets another one. One that works keeps what the caller has set on it.

    Inside a transaction it stays, with all that is open.
    """
    own = connections[database()]
    if not own.connection or is_in_transaction(database()):
        return
    if own.errors_occurred and not own.is_usable():
        own.close()


@contextmanager
def reconnecting() -> Iterator[None]:
    """Closes a broken connection after an error, so a long-lived process fails only one call."""
    try:
        yield
    except DATABASE_ERRORS:
        drop_broken_connection()
        raise


def beside_transaction(account: ConnectedAccount, call: Callable[[], T]) -> T | None:
    """What the call returns in a worker thread, on a connection of its own.

    None, without a call, where that connection does not see the account: the caller has just made
    it, or looks at another schema. Raises ``IlertUnavailableError`` where no second connection, or
    no thread for it, can be had within two seconds.
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

    run = partial(context_of_worker().run, _run, work, result)
    try:
        if _starts(threading.Thread(target=run, name="ilert")):
            has_looked.wait(CONNECTION_PATIENCE)
    finally:
        has_given_up = not has_looked.is_set() and turn.acquire(blocking=False)
        if not has_given_up:
            # By an interrupted caller, too, with whom the clients would be closed.
            run_now(until_done(result))
    if has_given_up:
        raise IlertUnavailableError(
            "No second database connection was available within two seconds, or the transaction "
            "has locked the table. Refresh the account before, or outside of, the transaction, or "
            "allow more connections.",
            code="busy",
        )
    return result.result()


def _starts(thread: threading.Thread) -> bool:
    """Not where the system has none left, nor while the interpreter shuts down."""
    try:
        thread.start()
    except RuntimeError as error:
        logger.warning("No thread for a second database connection: %s", type(error).__name__)
        return False
    return True


def _run(work: Callable[[], T], result: Future[T]) -> None:
    try:
        result.set_result(work())
    except BaseException as error:
        result.set_exception(error.with_traceback(None))


def _sees(account: ConnectedAccount, *, has_given_up: Callable[[], bool]) -> bool:
    """Connects for as long as the caller waits: a server without a free connection says so at once.

    A connection that looks at another schema may see no table at all. Where the caller has locked
    the table, as a migration does that adds a foreign key to it, an update of no row waits, too.
    """
    rows = row_of(account)
    while not has_given_up():
        try:
            transaction.set_autocommit(True, using=database())
            is_seen = rows.exists()
            if is_seen:
                account_rows().filter(pk=0).update(lease_id="")
            return is_seen
        except ProgrammingError:
            return False
        except DATABASE_ERRORS:
            connections[database()].close()
            time.sleep(PAUSE)
    return False
