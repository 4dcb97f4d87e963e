"""The pending revocations in one run, at the rate that ilert allows."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import islice

from django.db.models import Q
from django.utils import timezone

from django_ilert_oauth.exceptions import IlertOAuthError, TokenDecryptionError
from django_ilert_oauth.flows._client import open_for_revocation, opened_once
from django_ilert_oauth.flows._revocation import (
    MAX_DELAY,
    OUTAGE_CODES,
    conclude,
    due_revocations,
    error_of,
    give_up,
    is_kept,
    noted,
    open_revocations,
    start,
)
from django_ilert_oauth.flows._storing import from_database
from django_ilert_oauth.internal.rows import PAGE, in_pages
from django_ilert_oauth.models import PendingRevocation
from django_ilert_oauth.oauth.client import IlertClient

from .rate_limiter import RateLimiter

logger = logging.getLogger(__name__)

#: From the first failure to the next attempt; doubled each time, up to ``MAX_DELAY``.
MIN_DELAY = timedelta(minutes=1)
#: For grants without a known end: how long ilert's refresh tokens live.
MAX_AGE = timedelta(days=365)


@dataclass(frozen=True)
class RevocationResult:
    """The result of ``revoke_pending``.

    ``left`` revocations are still pending. ``failures`` maps the primary key of each that failed to
    an error code, including those that were ``given_up``.
    """

    revoked: int = 0
    left: int = 0
    given_up: int = 0
    failures: dict[int, str] = field(default_factory=dict)


def revoke_pending(
    *, per_minute: int | None = None, limit: int | None = None, stop: threading.Event | None = None
) -> RevocationResult:
    """Sends the pending revocations that are due, at most ``limit``, until ``stop`` is set.

    Those that failed before go last. An endpoint that does not respond is skipped until the next
    run. Requests are spread evenly, at most ``per_minute`` (default:
    ``ILERT_OAUTH_REQUESTS_PER_MINUTE``; 0: no limit). Raises ``ValueError`` if it is negative.
    """
    stop = stop or threading.Event()
    limiter = RateLimiter(per_minute)
    failures: dict[int, str] = {}
    unresponsive: set[str] = set()
    revoked = 0
    with opened_once(open_for_revocation) as client_for:
        for pending in islice(_in_turn(limiter, stop, unresponsive), limit):
            error = _revoke(pending, client_for(pending.api_url))
            if error is None:
                revoked += 1
                continue
            failures[pending.pk] = error.code
            if error.code in OUTAGE_CODES:
                unresponsive.add(pending.api_url)
    ended = _give_up_ended()
    unreadable = list(failures.values()).count(TokenDecryptionError.code)
    return RevocationResult(
        revoked=revoked,
        left=from_database(open_revocations().count),
        given_up=unreadable + len(ended),
        failures={**failures, **ended},
    )


def _in_turn(
    limiter: RateLimiter, stop: threading.Event, unresponsive: set[str]
) -> Iterator[PendingRevocation]:
    """Each when its time has come, without those at an unresponsive endpoint."""
    while page := from_database(partial(_next_page, unresponsive)):
        for pending in page:
            if pending.api_url in unresponsive:
                continue
            if not limiter.wait(stop):
                return
            # Meanwhile another run may have sent it, or ilert given the token again.
            if from_database(partial(is_kept, pending)):
                yield pending


def _next_page(unresponsive: set[str]) -> list[PendingRevocation]:
    due = due_revocations().exclude(api_url__in=unresponsive)
    return list(due.order_by("attempts", "pk")[:PAGE])


def _revoke(pending: PendingRevocation, client: IlertClient) -> IlertOAuthError | None:
    """Where the endpoint does not respond, all that are due there wait as long."""
    error = error_of(start(pending, client))
    postponed = {"next_attempt_at": timezone.now() + _delay(pending)}
    from_database(partial(conclude, pending, error, **postponed))
    if error is not None and error.code in OUTAGE_CODES:
        others = due_revocations().filter(api_url=pending.api_url)
        if count := from_database(partial(others.update, **noted(error), **postponed)):
            logger.warning("%d more revocations wait for %s", count, pending.api_url)
    return error


def _delay(pending: PendingRevocation) -> timedelta:
    """Twice as long as the time before."""
    if pending.next_attempt_at is None or pending.last_error_at is None:
        return MIN_DELAY
    before = pending.next_attempt_at - pending.last_error_at
    return min(max(2 * before, MIN_DELAY), MAX_DELAY)


def _give_up_ended() -> dict[int, str]:
    """Gives up those whose grants can no longer be alive; error codes by primary key."""
    now = timezone.now()
    has_ended = Q(grant_ends_at__lte=now) | Q(grant_ends_at=None, created_at__lte=now - MAX_AGE)
    rows = open_revocations().filter(has_ended).exclude(next_attempt_at=None)
    ended = from_database(lambda: list(in_pages(rows)))
    for pending in ended:
        from_database(partial(give_up, pending, pending.last_error))
    return {pending.pk: pending.last_error for pending in ended}
