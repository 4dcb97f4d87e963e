"""What ilert has given is stored, although the database fails meanwhile.

Any error of the database but a data error is tried again on a fresh connection, until the lease
ends. After a failure, this process sends ilert nothing until a write has succeeded: each response
would be another one that could be lost.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from django.db import DatabaseError, DataError, InterfaceError, connections

from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.internal import crypto
from django_ilert_oauth.internal.db import is_in_transaction, update_row
from django_ilert_oauth.internal.rows import database, row_of
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.oauth.transport import clock

from ._lease import STORING_SECONDS, Lease
from ._steps import Steps, run_now

T = TypeVar("T")

logger = logging.getLogger(__name__)

DATABASE_ERRORS = (DatabaseError, InterfaceError)
#: Seconds from one attempt to the next.
PAUSE = 0.2
#: Seconds that a run waits for a database that fails before a request is made.
DATABASE_PATIENCE = 30.0

#: The attempts of this process that have failed and go on.
_failing: set[object] = set()
# Not every platform forks.
getattr(os, "register_at_fork", lambda **_: None)(after_in_child=_failing.clear)


def can_store() -> bool:
    """Whether a response that comes now is likely to be stored."""
    return not _failing


def require_storing() -> None:
    """Raises ``IlertUnavailableError`` unless ``can_store()``."""
    if not can_store():
        raise IlertUnavailableError(
            "The database is not accepting writes. Nothing is refreshed until it does.",
            code="not_stored",
        )


def retrying(call: Callable[[], T], until: float, *, writes: bool = False) -> Steps[T]:
    """What the call returns, once the database lets it; ``until`` is a moment of ``clock()``.

    One that writes shows that storing works. Inside a transaction nothing can be tried again.
    """
    attempt, has_failed = object(), False
    try:
        while True:
            try:
                if has_failed:
                    # A new connection begins as the settings say.
                    connections[database()].set_autocommit(True)
                result = call()
                if writes:
                    _failing.clear()
                return result
            except DataError:
                raise
            except DATABASE_ERRORS as error:
                if is_in_transaction(database()) or clock() > until:
                    raise
                if not has_failed:
                    logger.warning("The database failed; trying again: %s", type(error).__name__)
                _failing.add(attempt)
                has_failed = True
                connections[database()].close()
            yield PAUSE
    finally:
        _failing.discard(attempt)


def from_database(call: Callable[[], T]) -> T:
    """What a run reads or notes beside its requests: a connection that was cut costs it nothing."""
    return run_now(retrying(call, clock() + DATABASE_PATIENCE))


def write(
    account: ConnectedAccount, values: Mapping[str, Any], condition: Mapping[str, Any], until: float
) -> Steps[bool]:
    """As ``update_row``, tried again.

    True, too, where the connection was cut after the commit, before the database could say so.
    """
    update = partial(update_row, account, values, condition, using=database())
    if (yield from retrying(update, until, writes=True)):
        return True
    written = row_of(account).filter(**values)
    return (yield from retrying(written.exists, until))


def store(lease: Lease, values: Mapping[str, Any], sent: Secret) -> Steps[bool]:
    """Writes new tokens wherever the row still holds the refresh token that was sent.

    False where it does not. Raises ``IlertUnavailableError`` with the code ``not_stored`` where the
    database has failed for as long as the lease lasts.
    """
    account = lease.account
    # A machine that was suspended meanwhile has as long after it as any other.
    until = max(lease.ends, clock() + STORING_SECONDS)
    ciphertext, place = account.refresh_token_ciphertext, account.place_of("refresh_token")
    reason = "the row stayed locked"
    try:
        while clock() < until:
            condition = {"uuid": account.uuid, "refresh_token_ciphertext": ciphertext}
            if (yield from write(account, values, condition, until)):
                return True
            stored = yield from retrying(partial(_stored_ciphertext, account), until)
            if stored is None and connections[database()].connection is not lease.connection:
                reason = "a new connection does not see the account"
                break
            if not stored or (stored != ciphertext and not crypto.holds(stored, place, sent)):
                return False
            ciphertext = stored
            yield PAUSE
    except DATABASE_ERRORS as error:
        if isinstance(error, DataError) or is_in_transaction(database()):
            raise
        reason = type(error).__name__
    logger.error(
        "The new tokens of account %s are lost, since the database did not accept them: %s. If "
        "ilert refuses the old ones, the user has to reconnect.",
        account.pk,
        reason,
    )
    raise IlertUnavailableError("The database did not accept the new tokens.", code="not_stored")


def _stored_ciphertext(account: ConnectedAccount) -> str | None:
    """None for a row that is not there, or not seen."""
    return row_of(account).values_list("refresh_token_ciphertext", flat=True).first()
