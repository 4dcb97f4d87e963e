"""From the button on this site to a connected account, by authorization code with PKCE S256."""

from __future__ import annotations

import base64
import hashlib
import logging
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, transaction
from django.http import HttpRequest
from django.urls import reverse
from django.utils.encoding import iri_to_uri

from django_ilert_oauth.conf import Client, conf, is_tenant
from django_ilert_oauth.exceptions import (
    AuthorizationDeniedError,
    IlertOAuthError,
    IlertRejectedError,
    IlertUnavailableError,
    ReconnectRequiredError,
)
from django_ilert_oauth.internal import account_selection, authorization_request
from django_ilert_oauth.internal import scopes as scope_names
from django_ilert_oauth.internal.db import database_now
from django_ilert_oauth.internal.return_urls import safe_next_url
from django_ilert_oauth.internal.rows import (
    TOKEN_COLUMNS,
    account_rows,
    database,
    pending_revocations,
)
from django_ilert_oauth.internal.setting_values import DEFAULT_CLIENT
from django_ilert_oauth.models import AuthorizationRequest, ConnectedAccount, Reason, Status
from django_ilert_oauth.oauth.client import IlertClient, authorization_url
from django_ilert_oauth.oauth.responses import CurrentUser, TokenInfo, TokenResponse, error_code
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.signals import account_connected, account_revoked

from ._callback_params import single_parameters
from ._client import client_of, open_client, require_writable
from ._history import By, Kind, record
from ._revocation import keep_for_revocation
from ._signals import send_signal

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Grant:
    """What ilert has given, and to whom; lifetimes count from ``given_at``."""

    tokens: TokenResponse
    given_at: datetime
    info: TokenInfo
    scope: str
    profile: CurrentUser | None


def start_connect(
    request: HttpRequest,
    *,
    scopes: str | Iterable[str] = (),
    next_url: str = "",
    tenant: str | None = None,
    account: ConnectedAccount | None = None,
    client: str = "",
    keep_scopes: bool = True,
) -> str:
    """Returns the URL at ilert to send the user's browser to.

    The user is asked for ``ILERT_OAUTH_SCOPES`` and ``scopes``; for an ``account`` to reconnect
    also for what it asked for before, at its tenant and by its client. ``client`` names another
    one. Without an account, who will log in at ilert is not known, so what the user's accounts of
    the client hold is asked for, too, unless ``keep_scopes`` is false. A ``next_url`` that leads
    off this site is dropped. Raises ``ValueError`` for a ``tenant`` that is not a host label,
    ``ImproperlyConfigured`` for an unknown client, ``PermissionDenied`` for a visitor who is not
    logged in or whose account it is not, and ``IlertUnavailableError`` where
    ``ILERT_OAUTH_READ_ONLY`` is on.
    """
    if not request.user.is_authenticated:
        raise PermissionDenied("Log in before connecting an ilert account.")
    if account is not None and account.user_id != request.user.pk:
        raise PermissionDenied("The account belongs to another user.")
    name = client or _client_name(account)
    chosen = conf.client(name)
    base_url = _authorize_base(chosen, tenant, account)
    held = account_selection.held_scope(request, name) if keep_scopes and not account else ""
    state, code_verifier = Secret(secrets.token_urlsafe(32)), Secret(secrets.token_urlsafe(64))
    stored = authorization_request.store(
        request,
        state,
        code_verifier,
        chosen,
        requested_scope=authorization_request.requested_scope(scopes, account, held),
        next_url=iri_to_uri(safe_next_url(request, next_url)),
        account_uuid=account.uuid if account else None,
    )
    return authorization_url(base_url, _parameters(request, stored, state, code_verifier))


def finish_connect(request: HttpRequest) -> ConnectedAccount:
    """Turns the callback into a connected account; a reload of it returns the same one again.

    Raises ``StateError``, ``AuthorizationDeniedError``, ``IlertUnavailableError`` or
    ``IlertRejectedError``: then nothing is stored, an existing connection is unchanged, and a
    grant that ilert has given meanwhile is revoked if possible. Raises ``ReconnectRequiredError``
    where the new grant has ended with the one that it superseded.
    """
    parameters = single_parameters(request)
    found = authorization_request.find(request, parameters.get("state", Secret()))
    if found.connected_uuid:
        return _already_connected(found.user_id, found.connected_uuid)
    consumed_at = authorization_request.consume(found)
    account, created = _exchange(request, found, _code(parameters), consumed_at)
    send_signal(account_connected, account, request=request, created=created)
    return account


def _client_name(account: ConnectedAccount | None) -> str:
    """Of an account whose client is not configured any more, another one takes over."""
    if account is None:
        return DEFAULT_CLIENT
    return conf.client_keys().get((account.api_url, account.client_id), DEFAULT_CLIENT)


def _authorize_base(client: Client, tenant: str | None, account: ConnectedAccount | None) -> str:
    if tenant and not is_tenant(tenant):
        raise ValueError("A tenant is the first part of a host name, such as acme.")
    require_writable()
    known = tenant or (account.tenant_id if account else None) or conf.tenant
    if known and is_tenant(known):
        return client.tenant_url.replace("{tenant}", known)
    return client.app_url


def _parameters(
    request: HttpRequest, stored: AuthorizationRequest, state: Secret, code_verifier: Secret
) -> dict[str, str | Secret]:
    return {
        "client_id": stored.client_id,
        "response_type": "code",
        "redirect_uri": _redirect_uri(request),
        "scope": stored.requested_scope,
        "state": state,
        "code_challenge": _challenge(code_verifier),
        "code_challenge_method": "S256",
    }


def _redirect_uri(request: HttpRequest) -> str:
    return conf.redirect_uri or request.build_absolute_uri(reverse("ilert_oauth:callback"))


def _challenge(code_verifier: Secret) -> str:
    """RFC 7636, section 4.2."""
    digest = hashlib.sha256(code_verifier.reveal().encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _already_connected(user_id: Any, uuid: UUID) -> ConnectedAccount:
    account = account_rows().filter(user_id=user_id, uuid=uuid).first()
    if account is None:
        raise authorization_request.used()
    return account


def _code(parameters: dict[str, Secret]) -> Secret:
    if "error" in parameters:
        raise AuthorizationDeniedError(
            "ilert sent the user back without access.",
            code=error_code(parameters["error"].reveal()),
        )
    if not parameters.get("code"):
        raise AuthorizationDeniedError(
            "ilert sent the user back without a code.", code="missing_code"
        )
    return parameters["code"]


def _exchange(
    request: HttpRequest, found: AuthorizationRequest, code: Secret, given_at: datetime
) -> tuple[ConnectedAccount, bool]:
    with open_client(client_of(found)) as client:
        tokens = client.exchange_code(code, found.code_verifier)
        try:
            grant = _describe(client, found, tokens, given_at)
            account, created, revocation = _store(found, grant)
        except BaseException:
            _revoke_quietly(client, tokens)
            raise
        if revocation and not pending_revocations().filter(pk=revocation).exists():
            _require_active(client, account, request)
    _store_names(account, grant.profile)
    return account, created


def _describe(
    client: IlertClient, found: AuthorizationRequest, tokens: TokenResponse, given_at: datetime
) -> _Grant:
    info = client.token_info(tokens.access_token)
    if not info.active:
        raise IlertRejectedError("ilert's new token is not active.", code="inactive_token")
    scope = info.scope or tokens.scope or found.requested_scope
    may_ask = scope_names.covers(scope, "profile")
    profile = _profile(client, tokens) if may_ask else None
    return _Grant(tokens, given_at, info, scope, profile)


def _profile(client: IlertClient, tokens: TokenResponse) -> CurrentUser | None:
    """Names are only shown: without them the account is connected all the same."""
    try:
        return client.current_user(tokens.access_token)
    except (IlertUnavailableError, IlertRejectedError) as error:
        logger.warning("The profile of a new grant could not be read: %s", error.code)
        return None


def _store(found: AuthorizationRequest, grant: _Grant) -> tuple[ConnectedAccount, bool, int | None]:
    """In place: the same person in the same tenant keeps the row, and the old grant ends.

    Returns the account, whether it is new, and the key of the superseded grant's revocation.
    """
    identity: dict[str, Any] = {
        "user_id": found.user_id,
        "api_url": found.api_url,
        "tenant_id": grant.info.tenant_id,
        "username": grant.info.username,
    }
    with transaction.atomic(using=database()):
        account, created = account_rows().select_for_update().get_or_create(**identity)
        keep_for_revocation(account, unless=grant.tokens.refresh_token)
        revocations = pending_revocations().filter(account_uuid=account.uuid).order_by("-pk")
        revocation = revocations.values_list("pk", flat=True).first()
        old_scope = account.granted_scope
        _connect(account, found, grant)
        account.save(using=database())
        record(account, Kind.CONNECTED if created else Kind.RECONNECTED, By.USER)
        if not created and old_scope != account.granted_scope:
            record(account, Kind.SCOPES_CHANGED, By.USER)
        authorization_request.note_connected(found, account)
    return account, created, revocation


def _connect(account: ConnectedAccount, found: AuthorizationRequest, grant: _Grant) -> None:
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


def _store_names(account: ConnectedAccount, profile: CurrentUser | None) -> None:
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


def _require_active(client: IlertClient, account: ConnectedAccount, request: HttpRequest) -> None:
    """Raises ``ReconnectRequiredError`` where a server ends a grant with a superseded token."""
    try:
        is_active = client.token_info(account.access_token).active
    except (IlertUnavailableError, IlertRejectedError) as error:
        logger.warning("Account %s could not be checked: %s", account.pk, error.code)
        return
    if not is_active:
        _end(account, request)
        raise ReconnectRequiredError(
            "ilert ended the new grant with the one that it superseded. Connect again.", status=200
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


def _revoke_quietly(client: IlertClient, tokens: TokenResponse) -> None:
    if not tokens.refresh_token:
        return
    try:
        client.revoke(tokens.refresh_token)
    except IlertOAuthError as error:
        logger.warning("A grant that could not be stored is still alive: %s", error.code)
