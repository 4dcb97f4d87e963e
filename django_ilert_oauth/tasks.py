"""Celery tasks (extra ``[celery]``): a fleet of workers keeps tokens fresh, and the rate limit.

Let beat run ``refresh_expiring_tokens`` every minute. What is due is asked of the database each
time, so a message is no more than a slot in which one account may make its request: one that is
lost, late or doubled costs neither a token nor a second request, and the next run makes good.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from celery import Task, shared_task
from django.db.models import F, Q
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import (
    IlertOAuthError,
    IlertUnavailableError,
    ReconnectRequiredError,
    TokenDecryptionError,
)
from django_ilert_oauth.flows._bulk.credential_guard import (
    MIN_INVALID_GRANTS,
    credentials_seem_wrong,
)
from django_ilert_oauth.flows._bulk.runner import MAX_PAUSE
from django_ilert_oauth.flows._revocation import due_revocations
from django_ilert_oauth.internal.rows import account_rows
from django_ilert_oauth.models import CLOCK_TOLERANCE, ConnectedAccountQuerySet

logger = logging.getLogger(__name__)

#: In one run; the next sends the rest.
MAX_REVOCATIONS = 60
#: How long before their expiry tokens are refreshed.
REFRESH_WITHIN = timedelta(minutes=15)
#: Seconds from one run to the next.
MINUTE = 60
#: Seconds that a task may be late. Workers that come back begin with what piled up meanwhile: by
#: default 100 requests, the room between our 600 a minute and ilert's 700.
MAX_LATENESS = 10
RETRIES = 3
#: Longer than a retry waits: only then a run hands out an account that has failed.
FAILURE_PAUSE = timedelta(minutes=10)

#: The last grant that this process asked for: only then it asks how the others fare.
_was_refused = threading.Event()


@shared_task(ignore_result=True, expires=MINUTE)
def refresh_expiring_tokens() -> int:
    """Hands out the requests of one minute, evenly spread, and sends pending revocations.

    Those that expire first go first, so a run that overlaps another repeats its slots, and what is
    done already makes no request. Accounts that have just failed are asked again by their own
    tasks, at most once a minute: a slot less for each. Nothing is handed out while the client
    credentials seem to be wrong. Returns how many were handed out.
    """
    if credentials_seem_wrong() and not _prove_credentials():
        return 0
    limit = conf.requests_per_minute
    slots = max(limit - _retrying() - _revocations(), 0) if limit else None
    gap = MINUTE / slots if slots else 0.0
    lateness = MAX_LATENESS if limit else MINUTE
    count = 0
    for pk in _next_pks(slots):
        delay = count * gap
        refresh_account.apply_async((pk,), countdown=delay, expires=delay + lateness)
        count += 1
    flows.revoke_pending(limit=MAX_REVOCATIONS)
    return count


@shared_task(
    bind=True,
    ignore_result=True,
    acks_late=True,
    reject_on_worker_lost=True,
    max_retries=RETRIES,
)
def refresh_account(self: Task[Any, Any], pk: Any) -> str:
    """Refreshes the account if it is still due; returns a code.

    Only transient errors are retried; the flows have noted the others and sent their signals.
    """
    due = _due() if self.request.retries else _due().exclude(_failed_just_now())
    account = due.filter(pk=pk).first()
    if account is None:
        return "not_due"
    if _was_refused.is_set() and credentials_seem_wrong():
        return "credentials"
    try:
        flows.refresh(account)
    except IlertUnavailableError as error:
        if self.request.retries == RETRIES:
            return error.code
        delay = _delay(self.request.retries, error.retry_after)
        raise self.retry(countdown=delay, expires=delay + MAX_LATENESS) from None
    except ReconnectRequiredError as error:
        _was_refused.set()
        return error.code
    except IlertOAuthError as error:
        return error.code
    _was_refused.clear()
    return "refreshed"


def _prove_credentials() -> bool:
    """By a bulk run: one in which every grant is refused marks no account."""
    result = flows.refresh_many(_due(), limit=MIN_INVALID_GRANTS, concurrency=1)
    if result.stopped in ("credentials", "invalid_client"):
        logger.error(
            "ilert refuses every grant, so no token is refreshed. Check ILERT_OAUTH_CLIENT_ID and "
            "ILERT_OAUTH_CLIENT_SECRET, then run refresh_ilert_tokens --retry-reconnect-required. "
            "If all of these grants have ended, run it with --mark-ended."
        )
    return not result.stopped


def _due() -> ConnectedAccountQuerySet:
    now = timezone.now()
    just_now = (now - conf.min_refresh_interval, now + CLOCK_TOLERANCE)
    return account_rows().expiring(within=REFRESH_WITHIN).exclude(refreshed_at__range=just_now)


def _failed_just_now() -> Q:
    return Q(last_error_at__gt=timezone.now() - FAILURE_PAUSE)


def _retrying() -> int:
    """How many requests of retries one minute can have; without a key there is none."""
    return _due().filter(_failed_just_now()).exclude(last_error=TokenDecryptionError.code).count()


def _revocations() -> int:
    return due_revocations()[:MAX_REVOCATIONS].count()


def _next_pks(slots: int | None) -> Iterator[Any]:
    """Streams the keys, those that have failed before last, so that they hold up nobody."""
    ours = _due().filter(api_url=conf.api_url, client_id=conf.client_id)
    ready = ours.exclude(_failed_just_now()).unleased()
    healthy_first = F("last_error_at").asc(nulls_first=True)
    rows = ready.order_by(healthy_first, "access_token_expires_at", "pk")
    return rows.values_list("pk", flat=True)[:slots].iterator(chunk_size=500)


def _delay(retries: int, asked: float | None) -> float:
    """Seconds: doubled each time, and never less than a minute."""
    seconds = min(max(asked or 0, MINUTE * 2.0**retries), MAX_PAUSE)
    return seconds * random.uniform(1, 1.25)  # noqa: S311
