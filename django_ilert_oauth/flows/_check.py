"""Asking ilert what an account's token is good for, and whose it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.db import IntegrityError, transaction

from django_ilert_oauth.exceptions import IlertRejectedError, IlertUnavailableError
from django_ilert_oauth.internal.rows import TOKEN_COLUMNS, account_rows, columns, database
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth.responses import TokenInfo

from ._client import open_clients, require_client
from ._history import By, Kind, record
from ._lease import Snapshot, reload
from ._refresh import conclude, is_too_early, refresh_in_context
from ._refresh_request import CHECK_ERRORS, ERROR_COLUMNS, Outcome, Requester
from ._steps import Steps, run_now
from ._transactions import reconnecting

logger = logging.getLogger(__name__)

#: How often ilert is asked about an account that changes here meanwhile.
MAX_ATTEMPTS = 3
#: Seconds until an account that has changed is asked about again.
PAUSE = 0.1

#: What refreshes a token that must be refreshed first.
Refresh = Callable[[ConnectedAccount], Steps[Outcome]]


def check(account: ConnectedAccount) -> ConnectedAccount:
    """Asks ilert for tenant, username and scope, stores them, and returns the same account.

    A token that has expired, or that ilert reports as inactive, is refreshed first, which shows
    whether the grant still exists. If a user has removed the app at ilert, only that refresh
    notices it: the last access token works until it expires.

    Raises what ``get_access_token`` raises, and ``IlertRejectedError`` with the code
    ``identity_taken`` (the user already has another account with this tenant and username) or
    ``inactive_token`` (ilert reports even a new token as inactive).
    """
    with reconnecting(), open_clients() as client_for:
        run_now(check_steps(account, Requester(client_for), _refresh_now))
    return account


def check_steps(account: ConnectedAccount, requester: Requester, refresh: Refresh) -> Steps[bool]:
    """Whether ilert named anything else than what was stored; raises as ``check`` does."""
    require_client(account)
    snapshot = reload(account)
    try:
        for _ in range(MAX_ATTEMPTS):
            info = yield from _info(snapshot, requester, refresh)
            changes = _changes(account, info)
            if not changes or _store(account, changes):
                return bool(changes.keys() - ERROR_COLUMNS)
            yield PAUSE
            snapshot = reload(account)
    except IlertRejectedError as error:
        if error.code in CHECK_ERRORS:
            _note(snapshot, error.code)
        raise
    raise IlertUnavailableError("The account keeps changing. Check it again.", code="busy")


def _refresh_now(account: ConnectedAccount) -> Steps[Outcome]:
    """As every caller of ``refresh`` does, inside of a transaction, too."""
    yield from ()  # Only makes this a generator.
    return refresh_in_context(account, is_too_early)


def _info(snapshot: Snapshot, requester: Requester, refresh: Refresh) -> Steps[TokenInfo]:
    account = snapshot.account
    if not account.is_fresh(now=snapshot.now):
        conclude(account, (yield from refresh(account)))
    info = yield from _ask(account, requester)
    if not info.active:
        conclude(account, (yield from refresh(account)))
        info = yield from _ask(account, requester)
    if not info.active:
        raise IlertRejectedError(
            "ilert reports a new token as inactive.", code="inactive_token", status=200
        )
    return info


def _ask(account: ConnectedAccount, requester: Requester) -> Steps[TokenInfo]:
    yield from requester.slot(account)
    future = requester.client_for(account).start_token_info(account.access_token)
    yield future
    info: TokenInfo = future.result()
    return info


def _changes(account: ConnectedAccount, info: TokenInfo) -> dict[str, Any]:
    named = {"tenant_id": info.tenant_id, "username": info.username}
    if info.scope:
        named["granted_scope"] = info.scope
    changes: dict[str, Any] = {
        name: value for name, value in named.items() if getattr(account, name) != value
    }
    if account.last_error in CHECK_ERRORS:
        changes.update(last_error="", last_error_at=None)
    return changes


def _store(account: ConnectedAccount, changes: dict[str, Any]) -> bool:
    """False where the account has changed: then nothing is written.

    A refresh under way is not in the way, since its response names neither tenant nor user.
    """
    try:
        with transaction.atomic(using=database()):
            is_stored: bool = _unchanged(account).update(**changes) == 1
            if is_stored:
                _record(account, changes)
    except IntegrityError:
        is_taken = True
    else:
        is_taken = False
    if is_taken:
        raise IlertRejectedError(
            "Another account of this user already has the tenant and username that ilert now "
            "reports for this one. Delete one.",
            code="identity_taken",
            status=200,
        )
    if is_stored:
        account.take_stored(changes)
        logger.info("Account %s was updated to match ilert", account.pk)
    return is_stored


def _record(account: ConnectedAccount, changes: dict[str, Any]) -> None:
    if not {"tenant_id", "username"}.isdisjoint(changes):
        record(account, Kind.RENAMED, By.ILERT)
    if "granted_scope" in changes:
        record(account, Kind.SCOPES_CHANGED, By.ILERT)


def _note(snapshot: Snapshot, code: str) -> None:
    error = {"last_error": code, "last_error_at": snapshot.now}
    if _unchanged(snapshot.account).update(**error):
        snapshot.account.take_stored(error)


def _unchanged(account: ConnectedAccount) -> Any:
    seen = columns(account, ["uuid", "status", *TOKEN_COLUMNS])
    return account_rows().filter(pk=account.pk, **seen)
