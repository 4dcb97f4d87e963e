"""Background work that a queue carries: what is due, when it may be asked for, and when again.

What is due is asked of the database each time, so a message is no more than a slot in which one
account may make its request: one that is lost, late or duplicated costs neither a token nor a
second request, and the next minute makes up for it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import F, Q

from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import (
    IlertOAuthError,
    IlertUnavailableError,
    ReconnectRequiredError,
    TokenDecryptionError,
)
from django_ilert_oauth.internal.db import database_now
from django_ilert_oauth.internal.rows import account_rows, database
from django_ilert_oauth.models import ConnectedAccountQuerySet, LastRun, Reason
from django_ilert_oauth.models.queryset import CLOCK_TOLERANCE, DUE_WITHIN

from ._bulk.check import check_many
from ._bulk.credential_guard import MIN_INVALID_GRANTS, credentials_seem_wrong
from ._bulk.refresh import refresh_many
from ._bulk.revocations import RevocationResult, revoke_pending
from ._bulk.runner import MAX_PAUSE
from ._client import require_writable
from ._disconnect import disconnect_many
from ._refresh import refresh as refresh_now
from ._revocation import due_revocations
from ._runs import finish_refreshing
from ._steps import is_interrupt
from ._storing import DATABASE_ERRORS

logger = logging.getLogger(__name__)

MINUTE = 60
#: Of one minute; the next sends the rest.
MAX_REVOCATIONS = 60
#: Seconds that a request may be late. Workers that come back begin with what piled up meanwhile: by
#: default 100 requests, the room between our 600 a minute and ilert's 700.
MAX_LATENESS = 10
MAX_RETRIES = 3
#: Longer than a retry waits: only then does a minute hand out an account that has failed.
FAILURE_PAUSE = timedelta(minutes=10)

#: Accounts of one message: at the default rate limit, the work of ten seconds.
MAX_CHOSEN = 100

#: Clients whose last grant was refused to this process: only then does it ask how the others fare.
_refused: set[str] = set()


class Slot(NamedTuple):
    """An account's turn: in ``delay`` seconds, or up to ``patience`` seconds later."""

    pk: Any
    delay: float
    patience: float


class Attempt(NamedTuple):
    """``again_in`` is seconds, None where trying again would not help."""

    code: str
    again_in: float | None = None


def due() -> ConnectedAccountQuerySet:
    """The accounts to refresh, less those that were refreshed just now."""
    now = database_now(database())
    just_now = (now - conf.min_refresh_interval, now + CLOCK_TOLERANCE)
    due = account_rows().expiring(within=DUE_WITHIN, now=now)
    return due.exclude(refreshed_at__range=just_now)


def slots() -> Iterator[Slot]:
    """The turns of the next minute, evenly spread.

    Accounts that have not failed go first, by expiry, so a minute that overlaps another repeats its
    slots, and what is done already makes no request. A client has none while its credentials seem
    to be wrong; the others at its ilert share the rate limit, which counts the requests of an
    address.
    """
    require_writable()
    client_ids: dict[str, list[str]] = {}
    for (api_url, client_id), client in conf.client_keys().items():
        if not credentials_seem_wrong(client) or _prove_credentials(client):
            client_ids.setdefault(api_url, []).append(client_id)
    for api_url, ids in client_ids.items():
        yield from _slots_of(due().filter(api_url=api_url, client_id__in=ids))


def _slots_of(accounts: ConnectedAccountQuerySet) -> Iterator[Slot]:
    limit = requests_left(accounts)
    gap = MINUTE / limit if limit else 0.0
    patience = MINUTE if limit is None else MAX_LATENESS
    for number, pk in enumerate(_next_pks(accounts, limit)):
        yield Slot(pk, number * gap, patience)


def without_retries(accounts: ConnectedAccountQuerySet) -> ConnectedAccountQuerySet:
    """Less those that have just failed, which are asked again by messages of their own."""
    return accounts.exclude(_failed_just_now())


def to_be_retried(accounts: ConnectedAccountQuerySet) -> ConnectedAccountQuerySet:
    """Those that have just failed; without a key there is no request to repeat."""
    return accounts.filter(_failed_just_now()).exclude(last_error=TokenDecryptionError.code)


def requests_left(accounts: ConnectedAccountQuerySet, *, has_retries: bool = True) -> int | None:
    """How many refreshes the rate limit leaves for the next minute; None where there is none.

    Of the accounts that are due, those that have just failed are asked again by their own messages,
    where the queue has such, at most once a minute: one request fewer for each, as for each
    revocation.
    """
    if not conf.requests_per_minute:
        return None
    retries = to_be_retried(accounts).count() if has_retries else 0
    return max(conf.requests_per_minute - retries - _revocations(), 0)


def refresh(pk: Any, retries: int) -> Attempt:
    """Refreshes the account if it is still due, after so many retries.

    Only what is transient is tried again; the flows have noted the others and sent their signals.
    """
    still_due = due() if retries else without_retries(due())
    account = still_due.filter(pk=pk).first()
    if account is None:
        return Attempt("not_due")
    client = conf.client_name(account) or ""
    if client in _refused and credentials_seem_wrong(client):
        return Attempt("credentials")
    try:
        refresh_now(account)
    except IlertUnavailableError as error:
        has_retries = retries < MAX_RETRIES
        return Attempt(error.code, retry_delay(retries, error.retry_after) if has_retries else None)
    except ReconnectRequiredError as error:
        _refused.add(client)
        return Attempt(error.code)
    except IlertOAuthError as error:
        return Attempt(error.code)
    _refused.discard(client)
    return Attempt("refreshed")


def clean_up() -> RevocationResult:
    """Revokes what is pending, a minute's share of it, and does what each run does at its end."""
    revocations = revoke_pending(limit=MAX_REVOCATIONS)
    finish_refreshing(LastRun.Kind.QUEUE)
    return revocations


def run_action(action: str, pks: list[Any], chosen_at: str = "") -> list[Any]:
    """Does to the first of the accounts what the admin's action does; returns the others' keys.

    They are for the next message: so none takes long, and of a chosen set one runs at a time. Where
    a run ends early they are given up, since they would fare no better. What was connected after
    ``chosen_at`` is skipped: a message may come twice.
    """
    accounts = account_rows().filter(pk__in=pks[:MAX_CHOSEN])
    if chosen_at:
        accounts = accounts.filter(connected_at__lte=datetime.fromisoformat(chosen_at))
    try:
        stopped = _ACTIONS[action](accounts)
    except DATABASE_ERRORS as error:
        kind = type(error).__name__
        logger.error("%s was cut short (%s) at accounts %s.", action, kind, pks[:MAX_CHOSEN])
        stopped = ""
    if stopped:
        logger.error("%s ended early (%s) with %s accounts to go.", action, stopped, len(pks))
    return [] if stopped else pks[MAX_CHOSEN:]


def run_and_enqueue_rest(
    action: str, pks: list[Any], chosen_at: str, enqueue: Callable[[str, list[Any], str], None]
) -> None:
    """Does the action to the first of the accounts, and sends the others in the next message.

    If the queue does not accept it, the others follow at once: nobody else knows of them.
    """
    while pks := run_action(action, pks, chosen_at):
        try:
            enqueue(action, pks, chosen_at)
        except Exception as error:
            if is_interrupt(error):
                raise
            kind = type(error).__name__
            logger.error("%s goes on here, as the queue takes no message: %s", action, kind)
        else:
            return


def chosen_now() -> str:
    """For a message: the moment at which its accounts were chosen."""
    return database_now(database()).isoformat()


def _disconnect(accounts: ConnectedAccountQuerySet) -> str:
    result = disconnect_many(accounts, reason=Reason.ADMIN)
    if result.failures:
        logger.error("Accounts not disconnected, as the database failed: %s", list(result.failures))
    revoke_pending(limit=MAX_CHOSEN)
    return ""


_ACTIONS: dict[str, Callable[[ConnectedAccountQuerySet], str]] = {
    "refresh_accounts": lambda accounts: refresh_many(accounts.connected(), force=True).stopped,
    "check_accounts": lambda accounts: check_many(accounts.connected()).stopped,
    "disconnect_accounts": _disconnect,
}


def retry_delay(retries: int, asked: float | None) -> float:
    """Seconds: doubled each time, and never less than a minute."""
    seconds = min(max(asked or 0, MINUTE * 2.0**retries), MAX_PAUSE)
    return seconds * random.uniform(1, 1.25)  # noqa: S311


def _prove_credentials(client: str) -> bool:
    """By a bulk run: one in which every grant is refused marks no account."""
    result = refresh_many(due().of_client(client), limit=MIN_INVALID_GRANTS, concurrency=1)
    if result.stopped in ("credentials", "invalid_client"):
        logger.error(
            "ilert refuses every grant of the client %s, so none of its tokens is refreshed. Check "
            "ILERT_OAUTH_CLIENT_ID and ILERT_OAUTH_CLIENT_SECRET, or its own, then run "
            "refresh_ilert_tokens --retry-reconnect-required. If all of these grants have ended, "
            "run it with --mark-ended.",
            client,
        )
    return not result.stopped


def _failed_just_now() -> Q:
    """A later time comes from a wrong clock."""
    now = database_now(database())
    return Q(last_error_at__range=(now - FAILURE_PAUSE, now + FAILURE_PAUSE))


def _revocations() -> int:
    return due_revocations()[:MAX_REVOCATIONS].count()


def _next_pks(accounts: ConnectedAccountQuerySet, limit: int | None) -> Iterator[Any]:
    """Streams the keys, those that have failed before last, so that they hold up nobody."""
    ready = without_retries(accounts).unleased()
    healthy_first = F("last_error_at").asc(nulls_first=True)
    rows = ready.order_by(healthy_first, "access_token_expires_at", "pk")
    return rows.values_list("pk", flat=True)[:limit].iterator(chunk_size=500)
