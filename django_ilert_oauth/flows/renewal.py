"""One request under a lease, and what comes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction
from django.dispatch import Signal
from django.utils import timezone

from django_ilert_oauth.client import IlertClient
from django_ilert_oauth.exceptions import (
    IlertOAuthError,
    IlertRejectedError,
    ReconnectRequiredError,
)
from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from django_ilert_oauth.oauth_answers import TokenAnswer
from django_ilert_oauth.signals import account_refresh_failed, account_refreshed, account_revoked

from .base import TOKEN_COLUMNS, account_rows, announce, database, open_client, take_tokens
from .disconnect import keep_for_revocation
from .lease import give_back, store_under

logger = logging.getLogger(__name__)

ERROR_COLUMNS = ["last_error", "last_error_at"]
STATUS_COLUMNS = ["status", "reason", "status_changed_at", *ERROR_COLUMNS]
#: What other processes may have changed since the account was read.
GRANT_COLUMNS = [
    "connected_at",
    "tenant_id",
    "username",
    "granted_scope",
    *TOKEN_COLUMNS,
    "access_token_expires_at",
    "refresh_token_expires_at",
    "refreshed_at",
    *STATUS_COLUMNS,
]


@dataclass
class Outcome:
    """What came of a request: to be announced once it is committed."""

    renewed: bool = False
    #: It was committed apart from the caller's transaction.
    at_once: bool = False
    signal: Signal | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    error: IlertOAuthError | None = None

    @property
    def is_beaten(self) -> bool:
        """Another caller has taken the lease or changed the tokens meanwhile."""
        return not self.renewed and self.error is None

    def announce(self, account: ConnectedAccount) -> None:
        if self.signal is not None:
            announce(self.signal, account, at_once=self.at_once, **self.facts)


@dataclass(frozen=True)
class Refusal:
    """An ``invalid_grant``; ``status`` is 0 where there was no token to send."""

    account: ConnectedAccount
    lease_id: str
    sent: str
    status: int


def use_lease(
    account: ConnectedAccount,
    lease_id: str,
    client: IlertClient | None = None,
    *,
    refused: Callable[[Refusal], Outcome] | None = None,
) -> Outcome:
    """Asks ilert and writes the answer, which gives the lease back.

    ``refused`` decides what an ``invalid_grant`` means; by default it ends the grant.
    """
    sent = account.refresh_token_ciphertext
    try:
        tokens = _ask(account, client)
        if isinstance(tokens, TokenAnswer):
            return _keep(account, lease_id, sent, tokens)
        if isinstance(tokens, IlertRejectedError) and tokens.code == "invalid_grant":
            return (refused or end_grant)(Refusal(account, lease_id, sent, tokens.status))
        return _note_failure(account, lease_id, sent, tokens)
    except BaseException:
        give_back(lease_id, [account.pk])
        raise


def end_grant(refusal: Refusal) -> Outcome:
    """The stored token stays, so that a grant refused by mistake can be asked for again."""
    account = refusal.account
    first_time = account.status == Status.CONNECTED
    account.last_error, account.last_error_at = "invalid_grant", timezone.now()
    if first_time:
        account.reason = _reason(account)
        account.status, account.status_changed_at = Status.RECONNECT_REQUIRED, timezone.now()
    if not store_under(refusal.lease_id, account, refusal.sent, STATUS_COLUMNS):
        return Outcome()
    ended = ReconnectRequiredError(
        "The grant has ended; the user has to reconnect the account.", status=refusal.status
    )
    if not first_time:
        return Outcome(error=ended)
    logger.warning("The grant of account %s has ended: %s", account.pk, account.reason)
    facts = {"reason": account.reason, "request": None}
    return Outcome(signal=account_revoked, facts=facts, error=ended)


def _ask(account: ConnectedAccount, client: IlertClient | None) -> TokenAnswer | IlertOAuthError:
    if not account.refresh_token_ciphertext:
        code = "no_refresh_token" if account.is_fresh() else "invalid_grant"
        return IlertRejectedError("The account has no refresh token.", code=code)
    try:
        with nullcontext(client) if client else open_client() as wire:
            return wire.refresh(account.refresh_token)
    except IlertOAuthError as error:
        return error.with_traceback(None)


def _keep(account: ConnectedAccount, lease_id: str, sent: str, tokens: TokenAnswer) -> Outcome:
    """Writes what the answer names, and leaves the rest as it is stored."""
    names = ["refreshed_at", *ERROR_COLUMNS, *take_tokens(account, tokens)]
    account.refreshed_at, account.last_error, account.last_error_at = timezone.now(), "", None
    if account.status != Status.CONNECTED:
        account.status, account.reason = Status.CONNECTED, ""
        account.status_changed_at = timezone.now()
        names += ["status", "reason", "status_changed_at"]
    if store_under(lease_id, account, sent, names):
        return Outcome(renewed=True, signal=account_refreshed)
    if tokens.refresh_token and _has_ended_meanwhile(account):
        with transaction.atomic(using=database()):
            keep_for_revocation(account)
    return Outcome()


def _has_ended_meanwhile(account: ConnectedAccount) -> bool:
    """Disconnected, deleted or reconnected here: nobody else would end what has been renewed."""
    rows = account_rows().filter(pk=account.pk, connected_at=account.connected_at)
    return not rows.exclude(status=Status.DISCONNECTED).exists()


def _note_failure(
    account: ConnectedAccount, lease_id: str, sent: str, error: IlertOAuthError
) -> Outcome:
    account.last_error, account.last_error_at = error.code, timezone.now()
    if not store_under(lease_id, account, sent, ERROR_COLUMNS):
        return Outcome()
    logger.warning("Account %s was not refreshed: %s", account.pk, error.code)
    return Outcome(signal=account_refresh_failed, facts={"error": error}, error=error)


def _reason(account: ConnectedAccount) -> Reason:
    ends_at = account.refresh_token_expires_at
    has_run_out = ends_at is not None and ends_at <= timezone.now()
    never_renewable = not account.refresh_token_ciphertext
    return Reason.EXPIRED if has_run_out or never_renewable else Reason.REVOKED_AT_ILERT
