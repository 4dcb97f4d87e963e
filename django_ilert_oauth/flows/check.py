"""Asking ilert what an account's token is good for."""

from __future__ import annotations

from django_ilert_oauth.client import TokenInfo
from django_ilert_oauth.exceptions import IlertRejectedError
from django_ilert_oauth.models import ConnectedAccount

from .base import account_rows, open_client
from .refresh import get_access_token, refresh


def check(account: ConnectedAccount) -> ConnectedAccount:
    """Stores the scope that ilert names; raises as ``get_access_token`` does.

    A token that ilert calls inactive is renewed, which shows whether the grant is still there. A
    user who removed the app at ilert is noticed only then: the last access token works on until it
    expires.
    """
    info = _ask(account)
    if not info.active:
        refresh(account, force=True)
        info = _ask(account)
    if not info.active:
        raise IlertRejectedError("ilert calls a new token inactive.", code="inactive_token")
    if info.scope:
        account.granted_scope = info.scope
        account_rows().filter(pk=account.pk).update(granted_scope=info.scope)
    return account


def _ask(account: ConnectedAccount) -> TokenInfo:
    get_access_token(account)
    with open_client() as client:
        return client.token_info(account.access_token)
