"""Revoking at ilert what has ended here, as soon as ilert can be reached.

What is to be revoked is written in the transaction that ends the grant and sent after its commit,
so a rollback revokes nothing and a crash or an outage loses nothing. ``revoke_pending`` sends what
is left. Only a 2xx confirms a revocation: an unknown token gets one, too (RFC 7009, section 2.2).
Until then it is tried again, less and less often, as long as the grant may live.
"""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import Future
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import IlertOAuthError, TokenDecryptionError
from django_ilert_oauth.internal import crypto
from django_ilert_oauth.internal.rows import database, in_pages, pending_revocations
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation
from django_ilert_oauth.oauth.client import IlertClient
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.oauth.transport import clock

from ._client import open_for_revocation, opened_once

logger = logging.getLogger(__name__)

#: After a commit, this many are sent at the same time ...
CONCURRENCY = 10
#: ... of at most this many, for so many seconds in all; ``revoke_pending`` sends the others.
MAX_AFTER_COMMIT = 100
MAX_SECONDS = 3.0
#: How long commits leave an endpoint alone that did not respond.
ENDPOINT_PAUSE = timedelta(minutes=1)
#: From a failure to the next attempt, at most.
MAX_DELAY = timedelta(hours=6)
#: These say nothing about the revocation that was sent, but all about its endpoint.
OUTAGE_CODES = frozenset({"unreachable", "timeout", "rate_limited"})

#: Keys of what the transaction of each connection has kept; some may be rolled back.
_kept: WeakKeyDictionary[BaseDatabaseWrapper, deque[Any]] = WeakKeyDictionary()


def keep_for_revocation(
    account: ConnectedAccount, *, except_token: Secret | None = None, after_commit: bool = True
) -> None:
    """Has the account's refresh token revoked after the commit, except for this one.

    Not ``after_commit``: by ``revoke_pending``. A copy of a site, read-only or with a client of its
    own, leaves the grants to the site.
    """
    ciphertext, place = account.refresh_token_ciphertext, account.place_of("refresh_token")
    if conf.read_only or not ciphertext or _is_of_another_site(account):
        return
    if except_token and crypto.holds(ciphertext, place, except_token):
        return
    pending = pending_revocations().create(
        account_uuid=account.uuid,
        client_id=account.client_id,
        api_url=account.api_url,
        tenant_id=account.tenant_id,
        username=account.username,
        grant_ends_at=account.refresh_token_expires_at,
        refresh_token_ciphertext=ciphertext,
    )
    if not after_commit:
        return
    connection = connections[database()]
    _kept.setdefault(connection, deque(maxlen=MAX_AFTER_COMMIT)).append(pending.pk)
    # Each hook sends everything: any one of them may be rolled back with a savepoint.
    transaction.on_commit(_revoke_kept, using=connection.alias, robust=True)


def forget_revocations(account: ConnectedAccount, refresh_token: Secret | None) -> None:
    """Of a token that ilert has given once more: it is good again."""
    if not refresh_token:
        return
    who = {name: getattr(account, name) for name in ("api_url", "tenant_id", "username")}
    for pending in pending_revocations().filter(**who):
        ciphertext, place = pending.refresh_token_ciphertext, pending.place_of("refresh_token")
        if crypto.holds(ciphertext, place, refresh_token):
            _row(pending).delete()


def is_kept(pending: PendingRevocation) -> bool:
    return _row(pending).exists()


def due_revocations() -> QuerySet[PendingRevocation]:
    now = timezone.now()
    is_due = Q(next_attempt_at=None) | Q(next_attempt_at__lte=now)
    # A later time comes from a wrong clock.
    return open_revocations().filter(is_due | Q(next_attempt_at__gt=now + MAX_DELAY))


def open_revocations() -> QuerySet[PendingRevocation]:
    """Those that have not been given up."""
    return pending_revocations().filter(given_up_at=None)


def reopen_readable() -> None:
    """Makes those pending again that were given up while their key was missing."""
    unreadable = pending_revocations().filter(last_error=TokenDecryptionError.code)
    for pending in in_pages(unreadable.exclude(given_up_at=None)):
        if crypto.key_number(pending.refresh_token_ciphertext, pending.place_of("refresh_token")):
            _row(pending).update(given_up_at=None)


def _is_of_another_site(account: ConnectedAccount) -> bool:
    """Given to another client of an ilert that this site works with, as in a copy for staging.

    Not where the settings do not tell: an ilert may be gone from them, or the client's ID.
    """
    try:
        keys = conf.client_keys()
    except ImproperlyConfigured:
        return False
    clients = {client_id for api_url, client_id in keys if api_url == account.api_url}
    if account.client_id in clients or not (clients and all(clients)):
        return False
    logger.warning(
        "The grant of account %s stays valid at ilert: its client is not configured.", account.pk
    )
    return True


def _revoke_kept() -> None:
    """Sends what the transaction has kept, all at the same time, and does not wait for long.

    What has no response by then counts as failed, although it may get through.
    """
    pks = _kept.pop(connections[database()], None)
    if pks is None:
        return
    now = timezone.now()
    unresponsive = pending_revocations().filter(
        last_error__in=OUTAGE_CODES, last_error_at__range=(now - ENDPOINT_PAUSE, now)
    )
    fresh = due_revocations().filter(pk__in=pks).exclude(api_url__in=unresponsive.values("api_url"))
    deadline = clock() + MAX_SECONDS
    under_way: deque[tuple[PendingRevocation, Future[None]]] = deque()
    with opened_once(open_for_revocation) as client_for:
        for pending in fresh:
            if len(under_way) == CONCURRENCY:
                _conclude_first(under_way)
            under_way.append((pending, start(pending, client_for(pending.api_url), deadline)))
        while under_way:
            _conclude_first(under_way)


def _conclude_first(under_way: deque[tuple[PendingRevocation, Future[None]]]) -> None:
    pending, future = under_way.popleft()
    conclude(pending, error_of(future))


def start(
    pending: PendingRevocation, client: IlertClient, deadline: float | None = None
) -> Future[None]:
    try:
        return client.start_revoke(pending.refresh_token, deadline=deadline)
    except TokenDecryptionError as error:
        failed: Future[None] = Future()
        failed.set_exception(error.with_traceback(None))
        return failed


def error_of(future: Future[None]) -> IlertOAuthError | None:
    try:
        future.result()
    except IlertOAuthError as error:
        return error.with_traceback(None)
    return None


def conclude(pending: PendingRevocation, error: IlertOAuthError | None, **columns: Any) -> None:
    """Without ``columns`` for a failure, the next run retries it."""
    if error is None:
        _row(pending).delete()
        return
    _row(pending).update(attempts=F("attempts") + 1, **noted(error), **columns)
    if isinstance(error, TokenDecryptionError):
        give_up(pending, error.code)
        return
    logger.warning(
        # As a repr, since names may hold control or bidi characters.
        "The grant of %r is not revoked at %s yet: %s",
        str(pending),
        pending.api_url,
        error.code,
    )


def noted(error: IlertOAuthError) -> dict[str, Any]:
    return {"last_error": error.code, "last_error_at": timezone.now()}


def give_up(pending: PendingRevocation, code: str) -> None:
    _row(pending).update(given_up_at=timezone.now())
    logger.warning(
        "The grant of %r was not revoked at %s, and no further attempt is made: %s. If it is "
        "still valid, have the user remove this app in ilert.",
        str(pending),
        pending.api_url,
        code,
    )


def _row(pending: PendingRevocation) -> QuerySet[PendingRevocation]:
    return pending_revocations().filter(pk=pending.pk, account_uuid=pending.account_uuid)
