"""Ending a grant on this site, at once; ``_revocation`` then revokes it at ilert."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.core.exceptions import ObjectDoesNotExist
from django.db import DatabaseError, OperationalError, transaction
from django.http import HttpRequest
from django.utils import timezone

from django_ilert_oauth.conf import conf
from django_ilert_oauth.internal.rows import account_rows, database
from django_ilert_oauth.models import (
    ConnectedAccount,
    ConnectedAccountQuerySet,
    Reason,
    Status,
)
from django_ilert_oauth.signals import account_revoked

from ._bulk.account_queue import AccountQueue
from ._history import Kind, record, record_disconnect
from ._lease import NO_LEASE
from ._revocation import keep_for_revocation
from ._signals import send_signal

#: Under REPEATABLE READ and SERIALIZABLE, a row that changes meanwhile fails the transaction.
MAX_ATTEMPTS = 5
NO_TOKENS: dict[str, Any] = {
    "access_token_ciphertext": "",
    "refresh_token_ciphertext": "",
    "access_token_expires_at": None,
    "refresh_token_expires_at": None,
}


def disconnect(
    account: ConnectedAccount,
    *,
    reason: Reason = Reason.USER,
    request: HttpRequest | None = None,
) -> None:
    """Wipes the tokens and their expiries, and revokes the grant at ilert; twice is a no-op.

    This works while ilert is down, and for an account whose tokens cannot be read. Within a
    transaction of the caller, the grant is revoked after its commit.
    """
    if transaction.get_connection(database()).in_atomic_block:
        _disconnect_inside(account, reason, request)
        return
    _disconnect_alone(account, reason, request)


@dataclass
class DisconnectResult:
    """``failures`` has the code of each account that is not disconnected, by pk.

    ``access_ends_at`` is when the last of the access tokens that were wiped expires.
    """

    disconnected: int = 0
    failures: dict[Any, str] = field(default_factory=dict)
    access_ends_at: datetime | None = None


def disconnect_many(
    queryset: ConnectedAccountQuerySet,
    *,
    reason: Reason = Reason.INCIDENT,
    stop: threading.Event | None = None,
) -> DisconnectResult:
    """Wipes the tokens of all of them first; ``revoke_pending`` then revokes at the rate limit.

    Each account is disconnected once, however the queryset lists it. May be stopped and called
    again: what is disconnected is skipped.
    """
    stop = stop or threading.Event()
    result = DisconnectResult()
    queue = AccountQueue(queryset)
    while not stop.is_set() and (look := queue.next()) is not None:
        access_ends_at = look.account.access_token_expires_at
        try:
            has_changed = _disconnect_alone(look.account, reason, None, at_once=False)
        except DatabaseError:
            result.failures[look.account.pk] = "database"
            continue
        result.disconnected += has_changed
        known = filter(None, (result.access_ends_at, access_ends_at))
        result.access_ends_at = max(known, default=None)
    return result


def end_grant_of_deleted(instance: ConnectedAccount, **kwargs: Any) -> None:
    """Receives ``pre_delete``: of a row, a queryset or a user."""
    stored = _row_of(instance).select_for_update().first()
    if stored is None:
        return
    record(stored, Kind.DELETED)
    if stored.status == Status.DISCONNECTED:
        return
    with suppress(ObjectDoesNotExist):
        # Read as long as it is there: receivers are called after the commit.
        stored.user  # noqa: B018
    if conf.revoke_on_delete:
        keep_for_revocation(stored)
    send_signal(account_revoked, stored, reason=Reason.DELETED, request=None)


def _disconnect_inside(
    account: ConnectedAccount, reason: Reason, request: HttpRequest | None
) -> None:
    """As part of the caller's transaction; right after it where the row cannot be changed in it.

    That is the case where the row has changed since the caller's snapshot.
    """
    try:
        _disconnect(account, reason, request)
    except OperationalError:
        if transaction.get_rollback(database()):
            raise
        transaction.on_commit(
            lambda: disconnect(account, reason=reason, request=request),
            using=database(),
            robust=True,
        )
        account.take_stored({**_ended(reason), **NO_TOKENS})


def _disconnect_alone(
    account: ConnectedAccount,
    reason: Reason,
    request: HttpRequest | None,
    *,
    at_once: bool = True,
) -> bool:
    for _ in range(MAX_ATTEMPTS - 1):
        with suppress(OperationalError):
            return _disconnect(account, reason, request, at_once=at_once)
    return _disconnect(account, reason, request, at_once=at_once)


def _disconnect(
    account: ConnectedAccount,
    reason: Reason,
    request: HttpRequest | None,
    *,
    at_once: bool = True,
) -> bool:
    """Whether it was not disconnected before."""
    row = _row_of(account)
    with transaction.atomic(using=database()):
        # First of all, so that only one caller goes on, and what is read then stays as it is: the
        # token that is revoked is the one that a refresh has stored last.
        if not row.exclude(status=Status.DISCONNECTED).update(**_ended(reason)):
            return False
        account.refresh_from_db(using=database())
        keep_for_revocation(account, at_once=at_once)
        row.update(**NO_TOKENS)
        account.take_stored(NO_TOKENS)
        record_disconnect(account, reason)
        send_signal(account_revoked, account, reason=reason, request=request)
    return True


def _row_of(account: ConnectedAccount) -> ConnectedAccountQuerySet:
    return account_rows().filter(pk=account.pk, uuid=account.uuid)


def _ended(reason: Reason) -> dict[str, Any]:
    return {
        "status": Status.DISCONNECTED,
        "reason": reason,
        "status_changed_at": timezone.now(),
        **NO_LEASE,
    }
