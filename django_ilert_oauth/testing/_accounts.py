"""Accounts that are connected to an ilert in memory."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.utils import timezone

from django_ilert_oauth.conf import conf
from django_ilert_oauth.internal import scopes as scope_names
from django_ilert_oauth.internal.setting_values import DEFAULT_CLIENT
from django_ilert_oauth.models import ConnectedAccount, Reason, Status

from ._fake_grants import make_token

_REASONS = {Status.RECONNECT_REQUIRED: Reason.REVOKED_AT_ILERT, Status.DISCONNECTED: Reason.USER}


def connected_account(
    user: Any,
    *,
    scopes: str | Iterable[str] | None = None,
    expires_in: float = 3600,
    status: str = Status.CONNECTED,
    client: str = DEFAULT_CLIENT,
    **columns: Any,
) -> ConnectedAccount:
    """Creates and returns an account of ``grace @ acme`` that belongs to ``user``.

    It was granted ``scopes`` (default: ``ILERT_OAUTH_SCOPES``). Its access token expires in
    ``expires_in`` seconds; if that is negative, it has expired. ``client`` is a name in
    ``ILERT_OAUTH_CLIENTS``, and any other keyword sets a field of the model. If the settings have
    no ``ILERT_OAUTH_ENCRYPTION_KEYS``, call it inside ``fake_ilert()``.
    """
    scope = scope_names.union(conf.scopes if scopes is None else scopes)
    identity = {"tenant_id": "acme", "username": "grace", "granted_scope": scope, **columns}
    owner = {
        "tenant_id": identity["tenant_id"],
        "username": identity["username"],
        "scope": identity["granted_scope"],
    }
    tokens = {f"{kind}_token": make_token(kind, owner) for kind in ("access", "refresh")}
    chosen = conf.client(client)
    made = {
        "user": user,
        "api_url": chosen.api_url,
        "client_id": chosen.client_id,
        "requested_scope": scope,
        "access_token_expires_at": timezone.now() + timedelta(seconds=expires_in),
        "status": status,
        "reason": _REASONS.get(Status(status), ""),
        **({} if status == Status.DISCONNECTED else tokens),
    }
    return ConnectedAccount.objects.create(**{**made, **identity})
