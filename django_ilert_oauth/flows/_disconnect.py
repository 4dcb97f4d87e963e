"""Ending a grant on this site, at once; ``_revocation`` then revokes it at ilert."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from django.core.exceptions import ObjectDoesNotExist
from django.db import DatabaseError, OperationalError, transaction
from django.http import HttpRequest
from django.utils import timezone

from django_ilert_oauth.conf import conf
from django_ilert_oauth.internal.rows import database, row_of
from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet, Reason, Status
from django_ilert_oauth.signals import account_revoked

from ._bulk.account_queue import AccountQueue
from ._history import Kind, record, record_disconnect
from ._lease import NO_LEASE
from ._revocation import keep_for_revocation
from ._signals import send_signal
from ._storing import from_database
from ._transactions import retry_transaction

NO_TOKENS: dict[str, Any] = {
    "access_token_ciphertext": "",
    "refresh_token_ciphertext": "",
    "access_token_expires_at": None,
    "refresh_token_expires_at": None,
}


def disconnect(
    account: ConnectedAccount, *, reason: Reason = Reason.USER, request: HttpRequest | None = None
) -> None:
    """Deletes the account's tokens and revokes the grant at ilert; disconnecting twice is a no-op.

    It also works while ilert is down, and if no key decrypts the tokens. Inside a transaction, the
    grant is revoked after the commit. ``reason`` is stored, and ``account_revoked`` is sent with it
    and with ``request``.
    """
    end = partial(_disconnect, row_of(account), account, reason, request)
    if not transaction.get_connection(database()).in_atomic_block:
        retry_transaction(end)
        return
    try:
        end()
    except OperationalError:
        # The row has changed since the caller's snapshot: right after its transaction, then.
        if transaction.get_rollback(database()):
            raise
        transaction.on_commit(lambda: retry_transaction(end), using=database(), robust=True)
        account.take_stored({**_ended(reason), **NO_TOKENS})


@dataclass
class DisconnectResult:
    """The result of ``disconnect_many``.

    ``failures`` maps the primary key of each account that was not disconnected to an error code.
    ``access_ends_at`` is when the last of the deleted access tokens expires: ilert accepts them
    until then.
    """

    disconnected: int = 0
    failures: dict[Any, str] = field(default_factory=dict)
    access_ends_at: datetime | None = None


def disconnect_many(
    queryset: ConnectedAccountQuerySet,
    *,
    reason: Reason = Reason.INCIDENT,
    stop: threading.Event | None = None,
    connected_before: datetime | None = None,
) -> DisconnectResult:
    """Deletes the tokens of all these accounts; call ``revoke_pending`` to end the grants at ilert.

    Each account is disconnected once, even if the queryset contains it twice. Setting ``stop`` ends
    the run after the current account; the next call skips accounts that are already disconnected.
    An account that is not, or no longer, ``connected_before`` that time when its turn comes is
    skipped: a queryset's own condition holds only for the moment at which the run begins.
    """
    stop = stop or threading.Event()
    conditions = {"connected_at__lt": connected_before} if connected_before else {}
    result = DisconnectResult()
    queue = from_database(partial(AccountQueue, queryset))
    while not stop.is_set() and (snapshot := from_database(queue.next)) is not None:
        try:
            row = row_of(snapshot.account).filter(**conditions)
            end = partial(_disconnect, row, snapshot.account, reason, None, after_commit=False)
            has_changed, access_ends_at = retry_transaction(end)
        except DatabaseError:
            result.failures[snapshot.account.pk] = "database"
            continue
        result.disconnected += has_changed
        known = filter(None, (result.access_ends_at, access_ends_at))
        result.access_ends_at = max(known, default=None)
    return result


def end_grant_of_deleted(
    instance: ConnectedAccount, using: str | None = None, **kwargs: Any
) -> None:
    """Receives ``pre_delete``: of a row, a queryset or a user; in another database it is a copy."""
    if using not in (None, database()):
        return
    stored = row_of(instance).select_for_update().first()
    if stored is None:
        return
    record(stored, Kind.DELETED)
    if conf.revoke_on_delete:
        keep_for_revocation(stored)
    if stored.status == Status.DISCONNECTED:
        return
    with suppress(ObjectDoesNotExist):
        # Read as long as it is there: receivers are called after the commit.
        stored.user  # noqa: B018
    send_signal(account_revoked, stored, reason=Reason.DELETED, request=None)


def _disconnect(
    row: ConnectedAccountQuerySet,
    account: ConnectedAccount,
    reason: Reason,
    request: HttpRequest | None,
    *,
    after_commit: bool = True,
) -> tuple[bool, datetime | None]:
    """Whether the account was in the queryset ``row`` and connected; when its access token ends."""
    with transaction.atomic(using=database()):
        # First of all, so that only one caller goes on, and what is read then stays as it is: the
        # token that is revoked is the one that a refresh has stored last.
        if not row.exclude(status=Status.DISCONNECTED).update(**_ended(reason)):
            return False, None
        account.refresh_from_db(using=database())
        access_ends_at = account.access_token_expires_at
        keep_for_revocation(account, after_commit=after_commit)
        row.update(**NO_TOKENS)
        account.take_stored(NO_TOKENS)
        record_disconnect(account, reason)
    # Outside of a transaction of its own, which a caller that commits by hand never ends.
    send_signal(account_revoked, account, reason=reason, request=request)
    return True, access_ends_at


def _ended(reason: Reason) -> dict[str, Any]:
    return {
        "status": Status.DISCONNECTED,
        "reason": reason,
        "status_changed_at": timezone.now(),
        **NO_LEASE,
    }
