"""From the button on this site to a connected account, by authorization code with PKCE S256."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme

from django_ilert_oauth import scopes as scope_names
from django_ilert_oauth import state
from django_ilert_oauth.client import IlertClient, authorization_url
from django_ilert_oauth.conf import conf, is_tenant
from django_ilert_oauth.exceptions import (
    AuthorizationDeniedError,
    IlertOAuthError,
    IlertRejectedError,
    StateError,
)
from django_ilert_oauth.models import ConnectedAccount, Status
from django_ilert_oauth.oauth_answers import CurrentUser, TokenAnswer, TokenInfo, error_code
from django_ilert_oauth.secret import Secret
from django_ilert_oauth.signals import account_connected

from .base import account_rows, announce, database, open_client, take_tokens
from .callback import take_answer
from .disconnect import keep_for_revocation

logger = logging.getLogger(__name__)

#: Ten of them have to fit into a session.
LONGEST_NEXT_URL = 2000


def start_connect(
    request: HttpRequest,
    *,
    scopes: str | Iterable[str] = (),
    next_url: str = "",
    tenant: str | None = None,
    account: ConnectedAccount | None = None,
) -> str:
    """The URL at ilert to send the user's browser to.

    Asks for ``ILERT_OAUTH_SCOPES`` and ``scopes``; for an ``account`` that is to be reconnected
    also for what it asked for before, at its tenant. A ``next_url`` that leads off this site is
    dropped. Raises ``ValueError`` for a ``tenant`` that is not a host label, and
    ``PermissionDenied`` for a visitor who is not logged in or whose account it is not.
    """
    if not request.user.is_authenticated:
        raise PermissionDenied("Log in before connecting an ilert account.")
    if account is not None and account.user_id != request.user.pk:
        raise PermissionDenied("The account to be reconnected is another user's.")
    base_url = _authorize_base(tenant, account)
    attempt = state.begin(
        request,
        requested_scope=requested_scope(scopes, account),
        next_url=safe_next_url(request, next_url),
        account_pk=account.pk if account else None,
    )
    url = authorization_url(
        base_url,
        {
            "client_id": conf.client_id,
            "response_type": "code",
            "redirect_uri": conf.redirect_uri
            or request.build_absolute_uri(reverse("ilert_oauth:callback")),
            "scope": attempt.requested_scope,
            "state": attempt.state,
            "code_challenge": _challenge(attempt.code_verifier),
            "code_challenge_method": "S256",
        },
    )
    return Secret(url)


def finish_connect(request: HttpRequest) -> ConnectedAccount:
    """Turns the callback into a connected account; a reload of it returns the same one again.

    Raises ``StateError``, ``AuthorizationDeniedError``, ``IlertUnavailableError`` or
    ``IlertRejectedError``. Then nothing is stored, an existing connection is untouched, and a
    grant that was made on the way is revoked, best effort.
    """
    answer = take_answer(request)
    returned_state = Secret(answer.get("state", ""))
    if pk := state.remembered_account(request, returned_state):
        state.conclude(request, returned_state)
        return _already_connected(request, pk)
    attempt = state.consume(request, returned_state)
    try:
        account, created = _exchange(request, attempt, _code(answer))
    finally:
        state.conclude(request, returned_state)
    announce(account_connected, account, request=request, created=created)
    return account


def safe_next_url(request: HttpRequest, next_url: str) -> str:
    """Empty for a URL that leads off this site, or from https to http."""
    is_safe = len(next_url) <= LONGEST_NEXT_URL and url_has_allowed_host_and_scheme(
        next_url, {request.get_host()}, require_https=request.is_secure()
    )
    return next_url if is_safe else ""


def requested_scope(
    scopes: str | Iterable[str] = (), account: ConnectedAccount | None = None
) -> str:
    earlier = (account.requested_scope, account.granted_scope) if account else ()
    return scope_names.union(conf.scopes, scopes, *earlier)


def _authorize_base(tenant: str | None, account: ConnectedAccount | None) -> str:
    if tenant and not is_tenant(tenant):
        raise ValueError("A tenant is the first part of a host name, such as acme.")
    known = tenant or (account.tenant_id if account else None) or conf.tenant
    if known and is_tenant(known):
        return conf.tenant_url.replace("{tenant}", known)
    return conf.app_url


def _challenge(code_verifier: str) -> str:
    """RFC 7636, section 4.2."""
    digest = hashlib.sha256(code_verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _already_connected(request: HttpRequest, pk: int) -> ConnectedAccount:
    account = account_rows().for_user(request.user).filter(pk=pk).first()
    if account is None:
        raise StateError("This attempt to connect was used already.", code="state_used")
    return account


def _code(answer: dict[str, Secret]) -> Secret:
    if "error" in answer:
        raise AuthorizationDeniedError(
            "ilert sent the user back without access.", code=error_code(answer["error"])
        )
    if not answer.get("code"):
        raise AuthorizationDeniedError(
            "ilert sent the user back without a code.", code="missing_code"
        )
    return answer["code"]


def _exchange(
    request: HttpRequest, attempt: state.Attempt, code: Secret
) -> tuple[ConnectedAccount, bool]:
    with open_client(attempt.api_url) as client:
        tokens = client.exchange_code(code, attempt.code_verifier)
        try:
            info, user = _identify(client, tokens)
            return _store(request, attempt, tokens, info, user)
        except BaseException:
            _revoke_quietly(client, tokens)
            raise


def _identify(client: IlertClient, tokens: TokenAnswer) -> tuple[TokenInfo, CurrentUser | None]:
    info = client.token_info(tokens.access_token)
    if not info.active:
        raise IlertRejectedError("ilert's new token is not active.", code="inactive_token")
    may_ask = scope_names.covers(info.scope or tokens.scope, "profile")
    return info, client.current_user(tokens.access_token) if may_ask else None


def _store(
    request: HttpRequest,
    attempt: state.Attempt,
    tokens: TokenAnswer,
    info: TokenInfo,
    user: CurrentUser | None,
) -> tuple[ConnectedAccount, bool]:
    """In place: the same person in the same tenant keeps the row, and the old grant ends."""
    identity: dict[str, Any] = {
        "user": request.user,
        "api_url": attempt.api_url,
        "tenant_id": info.tenant_id,
        "username": info.username,
    }
    with transaction.atomic(using=database()):
        account, created = account_rows().select_for_update().get_or_create(**identity)
        keep_for_revocation(account, unless=tokens.refresh_token)
        account.granted_scope = info.scope or attempt.requested_scope
        account.requested_scope = attempt.requested_scope
        account.refresh_token = ""
        account.refresh_token_expires_at = None
        take_tokens(account, tokens)
        _mark_connected(account, user)
        account.save(using=database())
        state.remember(attempt, account.pk)
    return account, created


def _mark_connected(account: ConnectedAccount, user: CurrentUser | None) -> None:
    now = timezone.now()
    account.status = Status.CONNECTED
    account.reason = ""
    account.status_changed_at = account.connected_at = now
    account.refreshed_at = account.last_error_at = None
    account.last_error = account.lease_id = ""
    account.lease_ends_ms = 0
    if user is not None:
        account.ilert_user_id = user.id
        account.display_name = user.display_name
        account.email = user.email


def _revoke_quietly(client: IlertClient, tokens: TokenAnswer) -> None:
    if not tokens.refresh_token:
        return
    try:
        client.revoke(tokens.refresh_token)
    except IlertOAuthError as error:
        logger.warning("A grant that could not be stored is still alive: %s", error.code)
