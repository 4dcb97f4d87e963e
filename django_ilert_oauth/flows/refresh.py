"""Keeping tokens fresh without ever losing one.

The answer is written only over the refresh token that was sent (compare and swap), so a late
writer never overwrites newer tokens and a loser's ``invalid_grant`` never harms the winner. No
transaction is opened here around a request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta

from django.utils import timezone

from django_ilert_oauth.client import TokenAnswer
from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import (
    IlertOAuthError,
    IlertRejectedError,
    IlertUnavailableError,
    ReconnectRequiredError,
)
from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from django_ilert_oauth.signals import account_refresh_failed, account_refreshed, account_revoked

from .base import account_rows, announce, database, open_client, require_same_ilert, take_tokens

logger = logging.getLogger(__name__)

#: What other processes may have changed since the account was read.
GRANT_COLUMNS = [
    "granted_scope",
    "access_token_ciphertext",
    "refresh_token_ciphertext",
    "access_token_expires_at",
    "refresh_token_expires_at",
    "status",
    "reason",
    "status_changed_at",
    "refreshed_at",
    "last_error",
    "last_error_at",
]


def get_access_token(account: ConnectedAccount, *, margin: timedelta | None = None) -> str:
    """A token good for longer than the margin (``ILERT_OAUTH_REFRESH_MARGIN``).

    Without a query or a request while the stored one is. Where ilert cannot be reached, or was
    asked less than ``ILERT_OAUTH_MIN_REFRESH_INTERVAL`` ago, the stored token is returned as long
    as it is good at all. Raises ``ReconnectRequiredError``, ``IlertUnavailableError``,
    ``IlertRejectedError``, ``EndpointMismatchError`` or ``TokenDecryptionError``.
    """
    require_same_ilert(account)
    wanted_margin = conf.refresh_margin if margin is None else margin
    if not account.is_fresh(wanted_margin):
        try:
            renew(account, unless=lambda a: a.is_fresh(wanted_margin) or is_too_early(a))
        except (IlertUnavailableError, IlertRejectedError):
            if not account.is_fresh():
                raise
    return account.access_token


def refresh(account: ConnectedAccount, *, force: bool = False) -> ConnectedAccount:
    """The same account, with the tokens that are stored now.

    Makes no request where the last refresh is less than ``ILERT_OAUTH_MIN_REFRESH_INTERVAL`` ago,
    unless forced. Raises as ``get_access_token`` does; everything but ``ReconnectRequiredError``
    leaves the stored tokens as they were.
    """
    require_same_ilert(account)
    renew(account, unless=lambda a: not force and is_too_early(a))
    return account


def renew(
    account: ConnectedAccount,
    *,
    unless: Callable[[ConnectedAccount], bool],
    retry_reconnect_required: bool = False,
) -> bool:
    """Whether this call renewed the account; not where the re-read row shows it is needless."""
    _reread(account)
    _require_grant(account, retry_reconnect_required=retry_reconnect_required)
    if unless(account):
        return False
    sent = account.refresh_token_ciphertext
    tokens = _ask(account)
    if isinstance(tokens, TokenAnswer):
        return _keep(account, sent, tokens)
    if isinstance(tokens, IlertRejectedError) and tokens.code == "invalid_grant":
        return _end_grant(account, sent, tokens)
    _note_failure(account, sent, tokens)
    raise tokens


def is_too_early(account: ConnectedAccount) -> bool:
    return account.was_refreshed_within(conf.min_refresh_interval)


def _reread(account: ConnectedAccount) -> None:
    try:
        account.refresh_from_db(using=database(), fields=GRANT_COLUMNS)
    except ConnectedAccount.DoesNotExist:
        deleted = True
    else:
        deleted = False
    if deleted:
        raise ReconnectRequiredError("The account was deleted; the user has to connect again.")


def _require_grant(account: ConnectedAccount, *, retry_reconnect_required: bool = False) -> None:
    retried = retry_reconnect_required and account.needs_reconnect
    if account.status != Status.CONNECTED and not retried:
        raise ReconnectRequiredError("Access has ended; the user has to reconnect the account.")


def _ask(account: ConnectedAccount) -> TokenAnswer | IlertOAuthError:
    if not account.refresh_token_ciphertext:
        code = "no_refresh_token" if account.is_fresh() else "invalid_grant"
        return IlertRejectedError("The account has no refresh token.", code=code)
    try:
        with open_client() as client:
            return client.refresh(account.refresh_token)
    except IlertOAuthError as error:
        return error.with_traceback(None)


def _keep(account: ConnectedAccount, sent: str, tokens: TokenAnswer) -> bool:
    take_tokens(account, tokens)
    now = timezone.now()
    if account.status != Status.CONNECTED:
        account.status, account.reason, account.status_changed_at = Status.CONNECTED, "", now
    account.refreshed_at, account.last_error, account.last_error_at = now, "", None
    if not _store(account, sent, GRANT_COLUMNS):
        return _settle_for_winner(account)
    announce(account_refreshed, account)
    return True


def _store(account: ConnectedAccount, sent: str, columns: list[str]) -> bool:
    values = {name: getattr(account, name) for name in columns}
    rows = account_rows().filter(pk=account.pk, refresh_token_ciphertext=sent)
    return rows.exclude(status=Status.DISCONNECTED).update(**values) == 1


def _settle_for_winner(account: ConnectedAccount) -> bool:
    _reread(account)
    _require_grant(account)
    return False


def _end_grant(account: ConnectedAccount, sent: str, error: IlertRejectedError) -> bool:
    """Marks the account, or settles for the tokens that a faster caller stored."""
    first_time = account.status == Status.CONNECTED
    now = timezone.now()
    if first_time:
        account.reason = _reason(account)
        account.status, account.status_changed_at = Status.RECONNECT_REQUIRED, now
    account.last_error, account.last_error_at = error.code, now
    columns = ["status", "reason", "status_changed_at", "last_error", "last_error_at"]
    if not _store(account, sent, columns):
        return _settle_for_winner(account)
    if first_time:
        logger.warning("The grant of account %s has ended: %s", account.pk, account.reason)
        announce(account_revoked, account, reason=account.reason, request=None)
    raise ReconnectRequiredError(
        "The grant has ended; the user has to reconnect the account.", status=error.status
    )


def _reason(account: ConnectedAccount) -> Reason:
    ends_at = account.refresh_token_expires_at
    has_run_out = ends_at is not None and ends_at <= timezone.now()
    never_renewable = not account.refresh_token_ciphertext
    return Reason.EXPIRED if has_run_out or never_renewable else Reason.REVOKED_AT_ILERT


def _note_failure(account: ConnectedAccount, sent: str, error: IlertOAuthError) -> None:
    account.last_error, account.last_error_at = error.code, timezone.now()
    _store(account, sent, ["last_error", "last_error_at"])
    logger.warning("Account %s was not refreshed: %s", account.pk, error.code)
    announce(account_refresh_failed, account, error=error)
