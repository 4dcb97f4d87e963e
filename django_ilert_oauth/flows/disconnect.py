"""Ending a grant: here at once, at ilert as soon as ilert can be reached.

What is to be revoked is written in the transaction that ends the grant and sent after its commit,
so a rollback revokes nothing and a crash or an outage loses nothing. ``revoke_pending`` sends what
is left.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import connections, transaction
from django.http import HttpRequest
from django.utils import timezone

from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import (
    IlertOAuthError,
    IlertRejectedError,
    IlertUnavailableError,
    TokenDecryptionError,
)
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation, Reason, Status
from django_ilert_oauth.signals import account_revoked

from .base import TOKEN_COLUMNS, account_rows, announce, database, open_client, pending_revocations
from .lease import NO_LEASE
from .pace import Pace

logger = logging.getLogger(__name__)

#: After a failure, how long deletions and disconnections leave the sending to ``revoke_pending``:
#: deleting a thousand accounts must not wait a thousand times for a dead ilert.
PAUSE = timedelta(minutes=1)
#: So much may wait for a commit; more would keep whoever deletes accounts waiting for ilert.
MOST_HOOKS = 40


@dataclass(frozen=True)
class RevocationResult:
    revoked: int
    left: int


def disconnect(
    account: ConnectedAccount,
    *,
    reason: Reason = Reason.USER,
    request: HttpRequest | None = None,
) -> None:
    """Wipes the tokens and ends the grant at ilert; twice is a no-op.

    Works while ilert is down, and for an account whose tokens cannot be read.
    """
    with transaction.atomic(using=database()):
        if not _claim(account, reason):
            return
        account.refresh_from_db(using=database())
        keep_for_revocation(account)
        account.access_token = account.refresh_token = ""
        account.save(using=database(), update_fields=TOKEN_COLUMNS)
        announce(account_revoked, account, reason=reason, request=request)


def end_grant_of_deleted(instance: ConnectedAccount, **kwargs: Any) -> None:
    """Receives ``pre_delete``: of a row, a queryset or a user."""
    stored = account_rows().select_for_update().filter(pk=instance.pk).first()
    if stored is None or stored.status == Status.DISCONNECTED:
        return
    if conf.revoke_on_delete:
        keep_for_revocation(stored)
    announce(account_revoked, stored, reason=Reason.DELETED, request=None)


def keep_for_revocation(account: ConnectedAccount, *, unless: str = "") -> None:
    """Has the account's refresh token revoked after the commit, unless it is this one.

    Of many in one transaction, most are left to ``revoke_pending``.
    """
    if not account.refresh_token_ciphertext or (unless and _holds(account, unless)):
        return
    user_key, api_url, tenant_id, username = account.identity
    pending = pending_revocations().create(
        user_key=user_key,
        api_url=api_url,
        tenant_id=tenant_id,
        username=username,
        refresh_token_ciphertext=account.refresh_token_ciphertext,
    )
    if len(connections[database()].run_on_commit) >= MOST_HOOKS:
        return
    # No partial: Django logs the failure of a hook by its ``__qualname__``.
    transaction.on_commit(lambda: _revoke_unless_down(pending), using=database(), robust=True)


def revoke_pending(
    *,
    per_minute: int | None = None,
    limit: int | None = None,
    stop: threading.Event | None = None,
) -> RevocationResult:
    """Sends what is left, the oldest first, until ``stop`` is set or ilert seems to be down.

    ``per_minute`` at the most, evenly spread (``ILERT_OAUTH_REQUESTS_PER_MINUTE``; 0: no limit).
    """
    stop = stop or threading.Event()
    pace = Pace(per_minute, stop)
    revoked = 0
    for pending in pending_revocations().order_by("pk")[:limit].iterator(chunk_size=200):
        pace.wait()
        if stop.is_set():
            break
        error = _revoke(pending)
        revoked += error is None
        if isinstance(error, IlertUnavailableError):
            break
    return RevocationResult(revoked=revoked, left=pending_revocations().count())


def _claim(account: ConnectedAccount, reason: Reason) -> bool:
    """The first statement of the transaction, so that only one caller goes on."""
    claimed = (
        account_rows()
        .filter(pk=account.pk)
        .exclude(status=Status.DISCONNECTED)
        .update(
            status=Status.DISCONNECTED,
            reason=reason,
            status_changed_at=timezone.now(),
            **NO_LEASE,
        )
    )
    return claimed == 1


def _holds(account: ConnectedAccount, refresh_token: str) -> bool:
    try:
        return account.refresh_token == refresh_token
    except TokenDecryptionError:
        return False


def _revoke_unless_down(pending: PendingRevocation) -> None:
    if not pending_revocations().filter(last_error_at__gt=timezone.now() - PAUSE).exists():
        _revoke(pending)


def _revoke(pending: PendingRevocation) -> IlertOAuthError | None:
    error = _try_to_revoke(pending)
    if error is None:
        pending_revocations().filter(pk=pending.pk).delete()
    else:
        logger.warning("The grant of %s is not revoked yet: %s", pending, error.code)
        failure = {"last_error": error.code, "last_error_at": timezone.now()}
        pending_revocations().filter(pk=pending.pk).update(**failure)
    return error


def _try_to_revoke(pending: PendingRevocation) -> IlertOAuthError | None:
    try:
        with open_client(pending.api_url) as client:
            client.revoke(pending.refresh_token)
    except IlertRejectedError as error:
        # A refused token is no token any more: nothing is left to end.
        logger.info("ilert refused to revoke the grant of %s: %s", pending, error.code)
    except IlertOAuthError as error:
        return error
    return None
