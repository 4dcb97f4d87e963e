"""What ilert has given at the end of a connect: whose it is, and where it is stored."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import DatabaseError, transaction
from django.db.models import Q
from django.http import HttpRequest

from django_ilert_oauth.exceptions import (
    IlertOAuthError,
    IlertRejectedError,
    IlertUnavailableError,
    ReconnectRequiredError,
)
from django_ilert_oauth.internal import account_selection, authorization_request, crypto
from django_ilert_oauth.internal import scopes as scope_names
from django_ilert_oauth.internal.db import database_now
from django_ilert_oauth.internal.rows import (
    TOKEN_COLUMNS,
    account_rows,
    database,
    pending_revocations,
)
from django_ilert_oauth.models import AuthorizationRequest, ConnectedAccount, Reason, Status
from django_ilert_oauth.oauth.client import IlertClient
from django_ilert_oauth.oauth.responses import CurrentUser, TokenInfo, TokenResponse
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.signals import account_revoked

from ._history import By, Kind, record
from ._revocation import forget_revocations, keep_for_revocation
from ._signals import send_signal
from ._steps import run_now, until_done
from ._storing import DATABASE_ERRORS
from ._transactions import drop_broken_connection

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grant:
    """What ilert has given, and to whom; lifetimes count from ``given_at``."""

    tokens: TokenResponse
    given_at: datetime
    info: TokenInfo
    scope: str
    profile: CurrentUser | None


def exchange_code(client: IlertClient, found: AuthorizationRequest, code: Secret) -> TokenResponse:
    """An interrupt is raised once the response has come: nobody else would know of the grant."""
    request = client.start_exchange_code(code, found.code_verifier)
    try:
        run_now(until_done(request))
    except BaseException:
        if request.exception() is None:
            revoke_left_over(client, found, request.result())
        raise
    return request.result()


def fetch_grant(
    client: IlertClient, found: AuthorizationRequest, tokens: TokenResponse, given_at: datetime
) -> Grant:
    info = client.token_info(tokens.access_token)
    if not info.active:
        raise IlertRejectedError("ilert's new token is not active.", code="inactive_token")
    scope = info.scope or tokens.scope or found.requested_scope
    may_ask = scope_names.covers(scope, "profile")
    profile = _profile(client, tokens) if may_ask else None
    return Grant(tokens, given_at, info, scope, profile)


def _profile(client: IlertClient, tokens: TokenResponse) -> CurrentUser | None:
    """Names are only shown: without them the account is connected all the same."""
    try:
        return client.current_user(tokens.access_token)
    except (IlertUnavailableError, IlertRejectedError) as error:
        logger.warning("The profile of a new grant could not be read: %s", error.code)
        return None


def store_grant(
    request: HttpRequest, found: AuthorizationRequest, grant: Grant
) -> tuple[ConnectedAccount, bool, int | None]:
    """In place: the same person in the same tenant keeps the row, and the old grant ends.

    Returns the account, whether it is new, and the key of the superseded grant's revocation.
    """
    identity: dict[str, Any] = {
        "api_url": found.api_url,
        "tenant_id": grant.info.tenant_id,
        "username": grant.info.username,
    }
    with transaction.atomic(using=database()):
        identity["user_id"] = _owner_id(request, found, identity)
        account, created = account_rows().select_for_update().get_or_create(**identity)
        keep_for_revocation(account, except_token=grant.tokens.refresh_token)
        forget_revocations(account, grant.tokens.refresh_token)
        revocations = pending_revocations().filter(account_uuid=account.uuid).order_by("-pk")
        revocation = revocations.values_list("pk", flat=True).first()
        old_scope = account.granted_scope
        _take_over(account, found, grant)
        account.save(using=database())
        record(account, Kind.CONNECTED if created else Kind.RECONNECTED, By.USER)
        if not created and old_scope != account.granted_scope:
            record(account, Kind.SCOPES_CHANGED, By.USER)
        authorization_request.note_connected(found, account)
    return account, created, revocation


def revoke_left_over(
    client: IlertClient, found: AuthorizationRequest, tokens: TokenResponse
) -> None:
    """After a failure: a grant that is stored must not be revoked, another is of use to nobody."""
    if not tokens.refresh_token or _may_be_stored(found, tokens.refresh_token):
        return
    try:
        client.revoke(tokens.refresh_token)
    except IlertOAuthError as error:
        logger.warning("A grant that could not be stored is still valid: %s", error.code)


def _may_be_stored(found: AuthorizationRequest, refresh_token: Secret) -> bool:
    """By this connect, whose failure may have come after the commit, or by one before it.

    True where the database cannot tell.
    """
    own = Q(user_id=found.user_id) | Q(uuid=found.account_uuid)
    try:
        drop_broken_connection()
        return authorization_request.has_connected(found) or any(
            crypto.holds(a.refresh_token_ciphertext, a.place_of("refresh_token"), refresh_token)
            for a in account_rows().filter(own, api_url=found.api_url)
        )
    except DATABASE_ERRORS as error:
        logger.warning(
            "A new grant may have been stored, or be left over: %s", type(error).__name__
        )
        return True


def _owner_id(request: HttpRequest, found: AuthorizationRequest, identity: dict[str, Any]) -> Any:
    """An account of somebody else that this user has reconnected stays its owner's."""
    if found.account_uuid:
        # It may have been handed over, or the user's rights have ended, since the user left.
        account_selection.forget(request)
        rows = account_selection.manageable_rows(request).select_for_update()
        if account := rows.filter(uuid=found.account_uuid, **identity).first():
            return account.user_id
    return found.user_id


def _take_over(account: ConnectedAccount, found: AuthorizationRequest, grant: Grant) -> None:
    account.client_id = found.client_id
    account.refresh_token = ""
    account.refresh_token_expires_at = None
    account.take_tokens(grant.tokens, grant.given_at)
    account.requested_scope, account.granted_scope = found.requested_scope, grant.scope
    account.status, account.reason = Status.CONNECTED, ""
    account.status_changed_at = account.connected_at = database_now(database())
    account.refreshed_at = account.last_error_at = None
    account.last_error = account.lease_id = ""
    account.lease_ends_ms = 0
    if grant.profile is not None:
        account.ilert_user_id = grant.profile.id


def store_names(account: ConnectedAccount, profile: CurrentUser | None) -> None:
    """By a statement of their own: not every database can keep every character."""
    if profile is None:
        return
    names = {"display_name": profile.display_name, "email": profile.email}
    try:
        with transaction.atomic(using=database()):
            account_rows().filter(pk=account.pk, uuid=account.uuid).update(**names)
    except DatabaseError as error:
        kind = type(error).__name__
        logger.warning("The names of account %s could not be stored: %s", account.pk, kind)
    else:
        account.take_stored(names)


def require_active(client: IlertClient, account: ConnectedAccount, request: HttpRequest) -> None:
    """Raises ``ReconnectRequiredError`` where a server ends a grant with a superseded token."""
    try:
        is_active = client.token_info(account.access_token).active
    except (IlertUnavailableError, IlertRejectedError) as error:
        logger.warning("Account %s could not be checked: %s", account.pk, error.code)
        return
    if not is_active:
        _end(account, request)
        raise ReconnectRequiredError(
            "ilert ended the new grant together with the one that it replaced. Connect again.",
            status=200,
        )


def _end(account: ConnectedAccount, request: HttpRequest) -> None:
    """Wipes the tokens, too: revoking them at the next connect could end that grant as well."""
    now = database_now(database())
    columns = {
        "access_token_ciphertext": "",
        "refresh_token_ciphertext": "",
        "status": Status.RECONNECT_REQUIRED,
        "reason": Reason.REVOKED_AT_ILERT,
        "status_changed_at": now,
        "last_error": ReconnectRequiredError.code,
        "last_error_at": now,
    }
    same = {name: getattr(account, name) for name in ("pk", "uuid", *TOKEN_COLUMNS)}
    if account_rows().filter(**same).update(**columns):
        account.take_stored(columns)
        record(account, Kind.RECONNECT_REQUIRED, By.ILERT, Reason.REVOKED_AT_ILERT)
        send_signal(account_revoked, account, reason=Reason.REVOKED_AT_ILERT, request=request)
