"""Revoking at ilert what has ended here, as soon as ilert can be reached.

What is to be revoked is written in the transaction that ends the grant and sent after its commit,
so a rollback revokes nothing and a crash or an outage loses nothing. ``revoke_pending`` sends what
is left. Only a 2xx confirms a revocation: an unknown token gets one, too (RFC 7009, section 2.2).
Until then it is tried again, less and less often, as long as the grant may live.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import IlertOAuthError, TokenDecryptionError
from django_ilert_oauth.internal.rows import PAGE, database, in_pages, pending_revocations
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation
from django_ilert_oauth.oauth.client import IlertClient
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.oauth.transport import clock

from ._bulk.rate_limiter import RateLimiter
from ._client import open_for_revocation

logger = logging.getLogger(__name__)

#: After a commit, so many are sent at the same time ...
CONCURRENCY = 10
#: ... of at most so many, for so many seconds in all; ``revoke_pending`` sends the others.
MAX_AFTER_COMMIT = 100
MAX_SECONDS = 3.0
#: How long commits leave an endpoint alone that did not respond.
PAUSE = timedelta(minutes=1)
#: From a failure to the next attempt: doubled each time.
MIN_DELAY, MAX_DELAY = timedelta(minutes=1), timedelta(hours=6)
#: For grants without a known end: how long ilert's refresh tokens live.
MAX_AGE = timedelta(days=365)
#: These say nothing about the revocation that was sent, but all about its endpoint.
OUTAGE_CODES = frozenset({"unreachable", "timeout", "rate_limited"})

#: Keys of what the transaction of each connection has kept; some may be rolled back.
_kept: WeakKeyDictionary[BaseDatabaseWrapper, deque[Any]] = WeakKeyDictionary()


@dataclass(frozen=True)
class RevocationResult:
    """The counts of a run of ``revoke_pending``.

    ``left`` are still pending; ``failures`` maps the primary key of each that failed to its error
    code. Those that this run has given up count as ``given_up`` and as failures.
    """

    revoked: int = 0
    left: int = 0
    given_up: int = 0
    failures: dict[int, str] = field(default_factory=dict)


def keep_for_revocation(
    account: ConnectedAccount, *, unless: Secret | None = None, at_once: bool = True
) -> None:
    """Has the account's refresh token revoked after the commit, unless it is this one.

    Not at once: by ``revoke_pending``. A copy of a site leaves the grants to the site itself.
    """
    if conf.read_only or not account.refresh_token_ciphertext:
        return
    if unless and _holds(account, unless):
        return
    pending = pending_revocations().create(
        account_uuid=account.uuid,
        client_id=account.client_id,
        api_url=account.api_url,
        tenant_id=account.tenant_id,
        username=account.username,
        grant_ends_at=account.refresh_token_expires_at,
        refresh_token_ciphertext=account.refresh_token_ciphertext,
    )
    if not at_once:
        return
    connection = connections[database()]
    _kept.setdefault(connection, deque(maxlen=MAX_AFTER_COMMIT)).append(pending.pk)
    # The first of these sends all. None does alone: a savepoint may take it back.
    transaction.on_commit(_revoke_kept, using=connection.alias, robust=True)


def revoke_pending(
    *,
    per_minute: int | None = None,
    limit: int | None = None,
    stop: threading.Event | None = None,
) -> RevocationResult:
    """Sends the pending revocations that are due, at most ``limit``, until ``stop`` is set.

    What failed before goes last. An endpoint that does not respond is skipped until the next
    run; the others are not affected. Requests are spread evenly, at most ``per_minute`` (default:
    ``ILERT_OAUTH_REQUESTS_PER_MINUTE``; 0: no limit). Raises ``ValueError`` for a negative one.
    """
    stop = stop or threading.Event()
    limiter = RateLimiter(per_minute)
    failures: dict[int, str] = {}
    silent: set[str] = set()
    revoked = 0
    with _clients() as client_for:
        for pending in islice(_in_turn(limiter, stop, silent), limit):
            error = _revoke(pending, client_for(pending.api_url))
            if error is None:
                revoked += 1
                continue
            failures[pending.pk] = error.code
            if error.code in OUTAGE_CODES:
                silent.add(pending.api_url)
    ended = _give_up_ended()
    unreadable = list(failures.values()).count(TokenDecryptionError.code)
    return RevocationResult(
        revoked=revoked,
        left=open_revocations().count(),
        given_up=unreadable + len(ended),
        failures={**failures, **ended},
    )


def due_revocations() -> QuerySet[PendingRevocation]:
    now = timezone.now()
    is_due = Q(next_attempt_at=None) | Q(next_attempt_at__lte=now)
    # None is deferred for longer: a clock was wrong.
    return open_revocations().filter(is_due | Q(next_attempt_at__gt=now + MAX_DELAY))


def open_revocations() -> QuerySet[PendingRevocation]:
    """Those that have not been given up."""
    return pending_revocations().filter(given_up_at=None)


def _holds(account: ConnectedAccount, refresh_token: Secret) -> bool:
    try:
        return account.refresh_token == refresh_token
    except TokenDecryptionError:
        return False


def _revoke_kept() -> None:
    """Sends what the transaction has kept, all at the same time, and does not wait for long.

    What has no response by then counts as failed, although it may get through.
    """
    pks = _kept.pop(connections[database()], None)
    if pks is None:
        return
    now = timezone.now()
    silent = pending_revocations().filter(
        last_error__in=OUTAGE_CODES, last_error_at__range=(now - PAUSE, now)
    )
    fresh = due_revocations().filter(pk__in=pks).exclude(api_url__in=silent.values("api_url"))
    deadline = clock() + MAX_SECONDS
    under_way: deque[tuple[PendingRevocation, Future[None]]] = deque()
    with _clients() as client_for:
        for pending in fresh:
            if len(under_way) == CONCURRENCY:
                _conclude_first(under_way)
            under_way.append((pending, _start(pending, client_for(pending.api_url), deadline)))
        while under_way:
            _conclude_first(under_way)


def _conclude_first(under_way: deque[tuple[PendingRevocation, Future[None]]]) -> None:
    pending, future = under_way.popleft()
    _conclude(pending, _error_of(future))


@contextmanager
def _clients() -> Iterator[Callable[[str], IlertClient]]:
    """Opens one for each endpoint."""
    with ExitStack() as stack:
        yield cache(lambda api_url: stack.enter_context(open_for_revocation(api_url)))


def _in_turn(
    limiter: RateLimiter, stop: threading.Event, silent: set[str]
) -> Iterator[PendingRevocation]:
    """Each when its time has come, without those at a silent endpoint."""
    while page := _next_page(silent):
        for pending in page:
            if pending.api_url in silent:
                continue
            if not limiter.wait(stop):
                return
            yield pending


def _next_page(silent: set[str]) -> list[PendingRevocation]:
    return list(due_revocations().exclude(api_url__in=silent).order_by("attempts", "pk")[:PAGE])


def _revoke(pending: PendingRevocation, client: IlertClient) -> IlertOAuthError | None:
    """Where the endpoint does not respond, all that are due there wait as long."""
    error = _error_of(_start(pending, client))
    postponed = {"next_attempt_at": timezone.now() + _delay(pending)}
    _conclude(pending, error, **postponed)
    if error is not None and error.code in OUTAGE_CODES:
        others = due_revocations().filter(api_url=pending.api_url)
        if count := others.update(**_noted(error), **postponed):
            logger.warning("%d more revocations wait for %s", count, pending.api_url)
    return error


def _start(
    pending: PendingRevocation, client: IlertClient, deadline: float | None = None
) -> Future[None]:
    try:
        return client.start_revoke(pending.refresh_token, deadline=deadline)
    except TokenDecryptionError as error:
        failed: Future[None] = Future()
        failed.set_exception(error.with_traceback(None))
        return failed


def _error_of(future: Future[None]) -> IlertOAuthError | None:
    try:
        future.result()
    except IlertOAuthError as error:
        return error.with_traceback(None)
    return None


def _conclude(pending: PendingRevocation, error: IlertOAuthError | None, **columns: Any) -> None:
    """Without ``columns`` for a failure, the next run retries it."""
    if error is None:
        _row(pending).delete()
        return
    _row(pending).update(attempts=F("attempts") + 1, **_noted(error), **columns)
    if isinstance(error, TokenDecryptionError):
        _give_up(pending, error.code)
        return
    logger.warning(
        # As a repr, since names may hold what moves a cursor or turns the direction of writing.
        "The grant of %r is not revoked at %s yet: %s",
        str(pending),
        pending.api_url,
        error.code,
    )


def _noted(error: IlertOAuthError) -> dict[str, Any]:
    return {"last_error": error.code, "last_error_at": timezone.now()}


def _delay(pending: PendingRevocation) -> timedelta:
    """Twice as long as the time before."""
    if pending.next_attempt_at is None or pending.last_error_at is None:
        return MIN_DELAY
    before = pending.next_attempt_at - pending.last_error_at
    return min(max(2 * before, MIN_DELAY), MAX_DELAY)


def _give_up_ended() -> dict[int, str]:
    """Those that were tried for as long as their grants could live."""
    now = timezone.now()
    has_ended = Q(grant_ends_at__lte=now) | Q(grant_ends_at=None, created_at__lte=now - MAX_AGE)
    ended = list(in_pages(open_revocations().filter(has_ended).exclude(next_attempt_at=None)))
    for pending in ended:
        _give_up(pending, pending.last_error)
    return {pending.pk: pending.last_error for pending in ended}


def _give_up(pending: PendingRevocation, code: str) -> None:
    _row(pending).update(given_up_at=timezone.now())
    logger.warning(
        "The grant of %r was not revoked at %s and this is not tried again: %s. If it is still "
        "alive, have the user remove this app in ilert.",
        str(pending),
        pending.api_url,
        code,
    )


def _row(pending: PendingRevocation) -> QuerySet[PendingRevocation]:
    return pending_revocations().filter(pk=pending.pk, account_uuid=pending.account_uuid)
