"""Asking ilert what an account's token is good for, and whose it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from django_ilert_oauth.client import IlertClient
from django_ilert_oauth.exceptions import IlertRejectedError, IlertUnavailableError
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth_answers import TokenInfo

from .base import TOKEN_COLUMNS, account_rows, columns, database, open_client, require_same_ilert
from .refresh import Wait, conclude, is_too_early, renew, reread
from .renewal import ERROR_COLUMNS, Outcome, use_lease

logger = logging.getLogger(__name__)

#: How often ilert is asked about an account that changes here meanwhile.
TRIES = 3
#: What only a check finds out, and the next one takes back.
OWN_ERRORS = ("identity_taken", "inactive_token")


def check(account: ConnectedAccount) -> ConnectedAccount:
    """Stores tenant, username and scope as ilert names them.

    Where the name is another, the tokens are encrypted anew for it in the same write. A token that
    has run out, or that ilert calls inactive, is renewed first, which shows whether the grant is
    still there. A user who removed the app at ilert is noticed only then: the last access token
    works on until it expires.

    Raises as ``get_access_token`` does, and ``IlertRejectedError`` with the code
    ``identity_taken`` (another account of the user has that name already) or ``inactive_token``
    (although just renewed). Whatever is raised leaves the tokens as they were.
    """
    with open_client() as client:
        Check(client).of(account)
    return account


@dataclass(frozen=True)
class Check:
    client: IlertClient
    #: What renews a token that must be renewed.
    use_lease: Callable[[ConnectedAccount, str], Outcome] = use_lease
    #: Called before each request.
    wait: Callable[[], None] = lambda: None

    def of(self, account: ConnectedAccount) -> bool:
        """Whether ilert named anything else than what was stored; raises as ``check`` does."""
        require_same_ilert(account)
        reread(account)
        try:
            return self._sync(account)
        except IlertRejectedError as error:
            if error.code in OWN_ERRORS:
                _note(account, error.code)
            raise

    def _sync(self, account: ConnectedAccount) -> bool:
        wait = Wait()
        for _ in range(TRIES):
            changes = _changes(account, self._info(account))
            if not changes or _store(account, changes):
                return bool(changes.keys() - ERROR_COLUMNS)
            wait.before_next_look()
            while reread(account):
                wait.before_next_look()
        raise IlertUnavailableError("The account keeps changing. Check it again.", code="busy")

    def _info(self, account: ConnectedAccount) -> TokenInfo:
        if not account.is_fresh():
            self._renew(account)
        info = self._ask(account)
        if not info.active:
            self._renew(account)
            info = self._ask(account)
        if not info.active:
            raise IlertRejectedError(
                "ilert calls a new token inactive.", code="inactive_token", status=200
            )
        return info

    def _ask(self, account: ConnectedAccount) -> TokenInfo:
        token = account.access_token
        self.wait()
        return self.client.token_info(token)

    def _renew(self, account: ConnectedAccount) -> None:
        if not is_too_early(account):
            self.wait()
        conclude(account, renew(account, unless=is_too_early, use=self.use_lease))


def _changes(account: ConnectedAccount, info: TokenInfo) -> dict[str, Any]:
    named = {"tenant_id": info.tenant_id, "username": info.username}
    if info.scope:
        named["granted_scope"] = info.scope
    changes: dict[str, Any] = {
        name: value for name, value in named.items() if getattr(account, name) != value
    }
    if account.last_error in OWN_ERRORS:
        changes.update(last_error="", last_error_at=None)
    return changes


def _store(account: ConnectedAccount, changes: dict[str, Any]) -> bool:
    """False where the account has changed, or is being renewed: then nothing is written."""
    changed = copy(account)
    vars(changed).update(changes)
    if changed.identity != account.identity:
        changed.access_token, changed.refresh_token = account.access_token, account.refresh_token
    new = columns(changed, [*changes, *TOKEN_COLUMNS])
    is_stored = _swap(account, new)
    if is_stored is None:
        raise IlertRejectedError(
            "The user has another account of the name that ilert gives this one now. Delete one.",
            code="identity_taken",
            status=200,
        )
    if is_stored:
        vars(account).update(new)
        logger.info("Account %s was brought into line with ilert", account.pk)
    return is_stored


def _swap(account: ConnectedAccount, new: dict[str, Any]) -> bool | None:
    """Compares and swaps; None where another account has the name."""
    old = columns(account, ["status", *TOKEN_COLUMNS])
    try:
        with transaction.atomic(using=database()):
            rows = account_rows().unleased().filter(pk=account.pk, **old)
            return rows.update(**new) == 1
    except IntegrityError:
        return None


def _note(account: ConnectedAccount, code: str) -> None:
    account.last_error, account.last_error_at = code, timezone.now()
    rows = account_rows().unleased().filter(pk=account.pk, **columns(account, TOKEN_COLUMNS))
    rows.update(**columns(account, ERROR_COLUMNS))
