"""One request under a lease, and what comes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from django.db import transaction
from django.dispatch import Signal

from django_ilert_oauth.exceptions import (
    IlertOAuthError,
    IlertRejectedError,
    ReconnectRequiredError,
)
from django_ilert_oauth.internal.rows import account_rows, columns, database
from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from django_ilert_oauth.oauth.client import IlertClient
from django_ilert_oauth.oauth.responses import TokenResponse
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.signals import (
    account_recovered,
    account_refresh_failed,
    account_refreshed,
    account_revoked,
)

from ._history import By, Kind, record
from ._lease import NO_LEASE, Lease, in_use, release
from ._revocation import keep_for_revocation
from ._signals import send_signal
from ._steps import Steps, despite_interrupt, no_steps
from ._storing import DATABASE_ERRORS, require_storing, retrying, store, write

logger = logging.getLogger(__name__)

ERROR_COLUMNS = ["last_error", "last_error_at"]
#: What only a check finds out, and the next one takes back.
CHECK_ERRORS = ("identity_taken", "inactive_token")


@dataclass
class Outcome:
    """What came of a request; its signal is sent once it is committed."""

    refreshed: bool = False
    #: After it had failed.
    recovered: bool = False
    #: It was committed on another connection than the caller's.
    is_committed: bool = False
    signal: Signal | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    error: IlertOAuthError | None = None

    @property
    def is_empty(self) -> bool:
        """Neither refreshed nor failed: nothing was needed, or another caller was faster."""
        return not self.refreshed and self.error is None

    def send_signal(self, account: ConnectedAccount) -> None:
        if self.signal is not None:
            send_signal(self.signal, account, is_committed=self.is_committed, **self.facts)
        if self.recovered:
            send_signal(account_recovered, account, is_committed=self.is_committed)


def end_grant(lease: Lease, status: int) -> Steps[Outcome]:
    """The stored token stays, so that a grant refused by mistake can be asked for again.

    ``status`` is 0 where there was no token to send.
    """
    account, now = lease.account, lease.snapshot.now
    first_time = account.status == Status.CONNECTED
    values: dict[str, Any] = {"last_error": "invalid_grant", "last_error_at": now}
    if first_time:
        values["status"], values["status_changed_at"] = Status.RECONNECT_REQUIRED, now
        values["reason"] = _reason(account, now)
    if not (yield from _write(lease, values)):
        return Outcome()
    ended = ReconnectRequiredError(
        "The grant has ended; the user has to reconnect the account.", status=status
    )
    if not first_time:
        return Outcome(error=ended)
    logger.warning("The grant of account %s has ended: %s", account.pk, account.reason)
    record(account, Kind.RECONNECT_REQUIRED, By.ILERT, account.reason)
    facts = {"reason": Reason(account.reason), "request": None}
    return Outcome(signal=account_revoked, facts=facts, error=ended)


@dataclass(frozen=True)
class Requester:
    """How ilert is asked: over which client, when, and what an ``invalid_grant`` means."""

    client_for: Callable[[ConnectedAccount], IlertClient]
    #: Waits until the next request for the account may be made.
    slot: Callable[[ConnectedAccount], Steps[None]] = no_steps
    on_invalid_grant: Callable[[Lease, int], Steps[Outcome]] = end_grant


def refresh_with_lease(lease: Lease, requester: Requester) -> Steps[Outcome]:
    """Asks ilert and writes what comes of it, which gives the lease back."""
    outcome = Outcome()
    try:
        with in_use(lease):
            sent, request = _start(lease, requester.client_for(lease.account))
            settle = partial(_settle, lease, requester, sent, request)
            outcome = yield from despite_interrupt(settle, (IlertOAuthError, *DATABASE_ERRORS))
    finally:
        if outcome.is_empty:
            release(lease)
    return outcome


def note_failure(lease: Lease, error: IlertOAuthError) -> Steps[Outcome]:
    """Nothing but the error is written."""
    account = lease.account
    is_first = not _is_failing(account)
    noted = {"last_error": error.code, "last_error_at": lease.snapshot.now}
    if not (yield from _write(lease, noted)):
        return Outcome()
    logger.warning("Account %s was not refreshed: %s", account.pk, error.code)
    if is_first:
        record(account, Kind.REFRESH_FAILED, By.ILERT, error.code)
    return Outcome(signal=account_refresh_failed, facts={"error": error}, error=error)


def _start(lease: Lease, client: IlertClient) -> tuple[Secret, Future[TokenResponse]]:
    """The token that is sent, too: when the response comes, its key may be gone from the settings.

    It is empty where nothing was sent.
    """
    account = lease.account
    try:
        if not account.refresh_token_ciphertext:
            is_fresh = account.is_fresh(now=lease.snapshot.now)
            code = "no_refresh_token" if is_fresh else "invalid_grant"
            raise IlertRejectedError("The account has no refresh token.", code=code)
        require_storing()
        sent = account.refresh_token
        return sent, client.start_refresh(sent, deadline=lease.request_by)
    except IlertOAuthError as error:
        failed: Future[TokenResponse] = Future()
        failed.set_exception(error.with_traceback(None))
        return Secret(), failed


def _settle(
    lease: Lease, requester: Requester, sent: Secret, request: Future[TokenResponse]
) -> Steps[Outcome]:
    if not request.done():
        yield request
    try:
        tokens = request.result()
    except IlertOAuthError as error:
        failure = error.with_traceback(None)
    else:
        return (yield from _store_tokens(lease, sent, tokens))
    if isinstance(failure, IlertRejectedError) and failure.code == "invalid_grant":
        return (yield from requester.on_invalid_grant(lease, failure.status))
    return (yield from note_failure(lease, failure))


def _store_tokens(lease: Lease, sent: Secret, tokens: TokenResponse) -> Steps[Outcome]:
    """Writes what the response names, and leaves the rest as it is stored."""
    account, now = lease.account, lease.snapshot.now
    new = ConnectedAccount(**columns(account, ["uuid", "api_url", "refresh_token_expires_at"]))
    names = [*new.take_tokens(tokens, now), "refreshed_at", *ERROR_COLUMNS, "status", "reason"]
    new.refreshed_at = now
    if account.status != Status.CONNECTED:
        new.status_changed_at = now
        names.append("status_changed_at")
    values = columns(new, names) | NO_LEASE
    if (yield from store(lease, values, sent)):
        recovered = _is_failing(account)
        has_other_scopes = (
            values.get("granted_scope", account.granted_scope) != account.granted_scope
        )
        account.take_stored(values)
        if recovered:
            record(account, Kind.RECOVERED, By.ILERT)
        if has_other_scopes:
            record(account, Kind.SCOPES_CHANGED, By.ILERT)
        return Outcome(refreshed=True, recovered=recovered, signal=account_refreshed)
    if tokens.refresh_token:
        revoke = partial(_revoke_if_ended, account, tokens.refresh_token)
        yield from retrying(revoke, lease.ends)
    return Outcome()


def _is_failing(account: ConnectedAccount) -> bool:
    has_failed = account.last_error not in ("", *CHECK_ERRORS)
    return has_failed or account.status != Status.CONNECTED


def _revoke_if_ended(account: ConnectedAccount, refresh_token: Secret) -> None:
    if _has_ended_meanwhile(account):
        account.refresh_token = refresh_token
        with transaction.atomic(using=database()):
            keep_for_revocation(account)


def _has_ended_meanwhile(account: ConnectedAccount) -> bool:
    """Disconnected, deleted or reconnected here: nobody else would revoke what ilert has given."""
    same = {"pk": account.pk, "uuid": account.uuid, "connected_at": account.connected_at}
    return not account_rows().filter(**same).exclude(status=Status.DISCONNECTED).exists()


def _write(lease: Lease, values: dict[str, Any]) -> Steps[bool]:
    """Only as long as nobody else has taken the lease or changed the token that was sent."""
    account = lease.account
    seen = columns(account, ["uuid", "status", "refresh_token_ciphertext"])
    held = {"lease_id": lease.id, **seen}
    is_written = yield from write(account, values | NO_LEASE, held, lease.ends)
    if is_written:
        account.take_stored(values)
    return is_written


def _reason(account: ConnectedAccount, now: datetime) -> Reason:
    ends_at = account.refresh_token_expires_at
    has_expired = ends_at is not None and ends_at <= now
    has_no_refresh_token = not account.refresh_token_ciphertext
    return Reason.EXPIRED if has_expired or has_no_refresh_token else Reason.REVOKED_AT_ILERT
