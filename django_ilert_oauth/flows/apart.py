"""A refresh inside the caller's own transaction must survive its rollback.

ilert has renewed the tokens whatever becomes of the caller. So lease and result are written on a
second connection, which only the caller that may get the lease opens, and closes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

from django.db import OperationalError, connections, transaction

from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.models import ConnectedAccount

from .base import account_rows, database

logger = logging.getLogger(__name__)

#: Seconds that a row lock is waited for; no request has been made by then.
LOCK_PATIENCE = 2.0

_opened_for: set[Any] = set()
_guard = threading.Lock()


def in_transaction() -> bool:
    """Whether a transaction of the caller is open.

    The test runner's own does not count: rows made inside it are seen on no other connection.
    """
    caller = connections[database()]
    blocks = caller.atomic_blocks
    is_test = any(getattr(block, "_from_testcase", False) for block in blocks)
    return not (caller.get_autocommit() or is_test)


def must_commit_apart() -> bool:
    """Whether a transaction of the caller is open that a second connection can look past."""
    return in_transaction() and not _has_one_writer()


def warn_of_rollback() -> None:
    """Where what is written joins the caller's transaction."""
    if in_transaction() and _has_one_writer():
        logger.warning(
            "An ilert token is refreshed inside a transaction on SQLite, which has one writer: "
            "a rollback would lose the new token."
        )


def _has_one_writer() -> bool:
    return connections[database()].vendor == "sqlite"


class Side(Enum):
    #: What is written is committed at once.
    OPEN = "open"
    #: It is written where the caller writes.
    NONE = "none"
    #: Another thread of this process is at it.
    TAKEN = "taken"


@contextmanager
def committing_apart(account: ConnectedAccount) -> Iterator[Side]:
    """A second connection in place of the caller's.

    None for a row that the caller has just made, which nobody else can see yet. Raises
    ``IlertUnavailableError`` where the row stays locked, be it by the caller itself.
    """
    with _only_one(account.pk) as is_first:
        if not is_first:
            yield Side.TAKEN
            return
        alias = database()
        caller = connections[alias]
        side = caller.copy()
        side.settings_dict["AUTOCOMMIT"] = True
        try:
            connections[alias] = side
            if account_rows().filter(pk=account.pk).exists():
                _wait_for_row(account)
                yield Side.OPEN
            else:
                connections[alias] = caller
                yield Side.NONE
        finally:
            connections[alias] = caller
            side.close()


@contextmanager
def _only_one(pk: Any) -> Iterator[bool]:
    with _guard:
        is_first = pk not in _opened_for
        _opened_for.add(pk)
    try:
        yield is_first
    finally:
        if is_first:
            _opened_for.discard(pk)


def _wait_for_row(account: ConnectedAccount) -> None:
    deadline = time.monotonic() + LOCK_PATIENCE
    while not _can_lock(account):
        if time.monotonic() > deadline:
            raise IlertUnavailableError(
                f"The row of account {account.pk} is locked. Refresh it before, or outside of, "
                "the transaction that locks or changes it.",
                code="row_locked",
            )
        time.sleep(0.05)


def _can_lock(account: ConnectedAccount) -> bool:
    # What a foreign key locks is only the key, where a database tells them apart.
    no_key = connections[database()].features.has_select_for_no_key_update
    rows = account_rows().select_for_update(nowait=True, no_key=no_key).filter(pk=account.pk)
    try:
        with transaction.atomic(using=database()):
            rows.values_list("pk").first()
    except OperationalError:
        return False
    return True
