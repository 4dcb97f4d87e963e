"""Which accounts a request may use and manage, and which of them it works with.

Asked for once a request. A visitor who is not logged in has none, whatever the site says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.http import HttpRequest

from django_ilert_oauth.conf import conf
from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet, Status

from . import scopes as scope_names
from . import setting_values
from .rows import account_rows, database

SESSION_KEY = "ilert_oauth_choice"
ASKED_KEY = "ilert_oauth_asked"


def matching(request: HttpRequest, scopes: str) -> list[ConnectedAccount]:
    """The latest connected first."""
    return [a for a in accounts_for(request) if is_usable(a) and a.has_scopes(scopes)]


def is_usable(account: ConnectedAccount) -> bool:
    return (
        account.status == Status.CONNECTED
        and conf.has_client(account.api_url, account.client_id)
        and account.is_readable
    )


def chosen(request: HttpRequest, accounts: list[ConnectedAccount]) -> ConnectedAccount | None:
    """The one that the user has chosen before; without a choice, the only one.

    None where the one chosen is not among them: it is for the user to say that another will do.
    """
    if remembered := _remembered(request):
        return remembered if remembered in accounts else None
    return accounts[0] if len(accounts) == 1 else None


def preferred(request: HttpRequest, scopes: str) -> ConnectedAccount | None:
    """For where the user cannot be asked: without a choice, the latest connected."""
    accounts = matching(request, scopes)
    return chosen(request, accounts if _remembered(request) else accounts[:1])


def remember(request: HttpRequest, account: ConnectedAccount) -> None:
    request.session[SESSION_KEY] = str(account.pk)


def account_to_reconnect(request: HttpRequest, scopes: str) -> ConnectedAccount | None:
    """The account to extend or to reconnect where none matches.

    First comes what the user may manage, then one that was asked for the scopes before: that tells
    who granted less from who was never asked, whichever of the accounts that happened to.
    """
    remembered, may_manage = _remembered(request), manageable(request)
    candidates = [a for a in accounts_for(request) if a.status != Status.DISCONNECTED]
    return max(
        candidates,
        key=lambda a: (a in may_manage, is_usable(a), was_asked(a, scopes), a == remembered),
        default=None,
    )


def held(request: HttpRequest) -> dict[UUID, str]:
    """What each of the accounts was granted and has not given back."""
    rows = manageable(request)
    return {a.uuid: a.granted_scope for a in rows if a.status != Status.DISCONNECTED}


def held_scope(request: HttpRequest, client: str) -> str:
    """Of all accounts of the user's own and of one client, by its name."""
    granted = held(request)
    same = (a for a in own(request) if conf.client_name(a) == client)
    return scope_names.union(*(granted.get(a.uuid, "") for a in same))


def was_asked(account: ConnectedAccount, scopes: str) -> bool:
    return scope_names.covers(account.requested_scope, scopes)


def may_ask(request: HttpRequest, account: ConnectedAccount, scopes: str) -> bool:
    """Once until the user logs out, and not where the account was asked and granted less.

    For what ilert refuses: there the account itself does not tell whether the user has come back.
    """
    if was_asked(account, scopes) and not account.has_scopes(scopes):
        return False
    asked = request.session.get(ASKED_KEY, {})
    before = asked.get(str(account.uuid), "")
    together = scope_names.union(before, scopes)
    request.session[ASKED_KEY] = {**asked, str(account.uuid): together}
    return not scope_names.covers(before, scopes)


def _remembered(request: HttpRequest) -> ConnectedAccount | None:
    """Forgotten once it is disconnected or deleted, or another user has logged in."""
    kept = request.session.get(SESSION_KEY)
    for account in accounts_for(request):
        if kept == str(account.pk) and account.status != Status.DISCONNECTED:
            return account
    request.session.pop(SESSION_KEY, None)
    return None


def own(request: HttpRequest) -> list[ConnectedAccount]:
    return _once(request, "own", lambda: account_rows().for_user(request.user))


def accounts_for(request: HttpRequest) -> list[ConnectedAccount]:
    """Those that the request may use: the user's own unless the site says otherwise."""
    if (function := conf.accounts_for) is None:
        return own(request)
    return _once(request, "usable", lambda: _checked(function(request)))


def manageable(request: HttpRequest) -> list[ConnectedAccount]:
    """The user's own, and those that the site lets the user reconnect and disconnect besides."""
    mine = own(request)
    if (function := conf.accounts_for) is None:
        return mine
    more = _once(request, "more", lambda: _checked(function(request)).manageable_by(request.user))
    return [*mine, *(account for account in more if account not in mine)]


def may_manage(request: HttpRequest, account: ConnectedAccount) -> bool:
    return account.user_id == request.user.pk or account in manageable(request)


def manageable_rows(request: HttpRequest) -> ConnectedAccountQuerySet:
    """As they are stored by now."""
    return account_rows().filter(pk__in=[account.pk for account in manageable(request)])


def forget(request: HttpRequest) -> None:
    """What follows asks again whose the accounts are."""
    vars(request).pop("ilert_accounts", None)


def _once(
    request: HttpRequest, kind: str, rows: Callable[[], ConnectedAccountQuerySet]
) -> list[ConnectedAccount]:
    """The latest connected first, and each once, however often a join lists it."""
    kept: dict[object, list[ConnectedAccount]] = vars(request).setdefault("ilert_accounts", {})
    key = (request.user.pk, kind)
    if request.user.is_authenticated and key not in kept:
        found = set(rows().using(database()))
        kept[key] = sorted(found, key=lambda a: (a.connected_at, a.pk), reverse=True)
    return kept.get(key, [])


def _checked(accounts: Any) -> ConnectedAccountQuerySet:
    if not isinstance(accounts, ConnectedAccountQuerySet) or not _can_be_filtered(accounts):
        wanted = "a function that returns a queryset of ConnectedAccount, without slice or union"
        raise setting_values.malformed("ACCOUNTS_FOR", wanted)
    return accounts


def _can_be_filtered(accounts: ConnectedAccountQuerySet) -> bool:
    return not (accounts.query.is_sliced or accounts.query.combinator)
