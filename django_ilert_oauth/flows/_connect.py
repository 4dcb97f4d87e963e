"""From the button on this site to a connected account, by authorization code with PKCE S256."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from uuid import UUID

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.urls import reverse
from django.utils.encoding import iri_to_uri

from django_ilert_oauth.conf import Client, conf, is_tenant
from django_ilert_oauth.exceptions import AuthorizationDeniedError
from django_ilert_oauth.internal import account_selection, authorization_request
from django_ilert_oauth.internal.return_urls import safe_next_url
from django_ilert_oauth.internal.rows import account_rows, pending_revocations
from django_ilert_oauth.internal.setting_values import DEFAULT_CLIENT
from django_ilert_oauth.models import AuthorizationRequest, ConnectedAccount
from django_ilert_oauth.oauth.client import authorization_url
from django_ilert_oauth.oauth.responses import error_code
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.signals import account_connected

from ._callback_params import single_parameters
from ._client import client_of, open_client, require_writable
from ._grant import (
    exchange_code,
    fetch_grant,
    require_active,
    revoke_left_over,
    store_grant,
    store_names,
)
from ._signals import send_signal
from ._transactions import retry_transaction


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
    """Returns the URL at ilert to which to redirect the user's browser.

    The user is asked for ``ILERT_OAUTH_SCOPES`` and ``scopes``. An ``account`` is reconnected at
    its tenant and with its client, unless ``tenant`` or ``client`` names another, and keeps its
    scopes. Without an account, nobody knows yet who will log in at ilert, so the user is also asked
    for the scopes of their accounts of this client, unless ``keep_scopes`` is false.

    A ``next_url`` off this site is ignored. Raises ``PermissionDenied`` if the user is not logged
    in or may not manage the account, ``ValueError`` for a malformed ``tenant``,
    ``ImproperlyConfigured`` for an unknown client, ``IlertUnavailableError`` on a read-only copy.
    """
    if not request.user.is_authenticated:
        raise PermissionDenied("Log in before connecting an ilert account.")
    if account is not None and not account_selection.may_manage(request, account):
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
    """Connects the account when ilert sends the user back with this request, and returns it.

    If the user reloads the callback, the same account is returned without a request to ilert.

    Raises ``StateError``, ``AuthorizationDeniedError``, ``IlertUnavailableError`` or
    ``IlertRejectedError`` if nothing was connected: an existing connection is unchanged, and a
    grant that ilert has already given is revoked if possible. Raises ``ReconnectRequiredError`` if
    ilert ended the new grant together with the one that it replaced.
    """
    parameters = single_parameters(request)
    found = authorization_request.find(request, parameters.get("state", Secret()))
    if found.connected_uuid:
        return _already_connected(request, found.connected_uuid)
    consumed_at = authorization_request.consume(found)
    account, created = _exchange(request, found, _code(parameters), consumed_at)
    send_signal(account_connected, account, request=request, created=created)
    return account


def _client_name(account: ConnectedAccount | None) -> str:
    """The default client takes over when the account's own is no longer configured."""
    if account is None:
        return DEFAULT_CLIENT
    return conf.client_name(account) or DEFAULT_CLIENT


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


def _already_connected(request: HttpRequest, uuid: UUID) -> ConnectedAccount:
    account = account_rows().filter(uuid=uuid).first()
    if account is None or not account_selection.may_manage(request, account):
        raise authorization_request.used_error()
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
        tokens = exchange_code(client, found, code)
        try:
            grant = fetch_grant(client, found, tokens, given_at)
            store = partial(store_grant, request, found, grant)
            account, created, revocation = retry_transaction(store)
        except BaseException:
            revoke_left_over(client, found, tokens)
            raise
        # One that is no longer pending was sent after the commit.
        if revocation and not pending_revocations().filter(pk=revocation).exists():
            require_active(client, account, request)
    store_names(account, grant.profile)
    return account, created
