"""Which of the user's accounts a request works with. One query a request, however often asked."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest

from django_ilert_oauth.conf import conf
from django_ilert_oauth.models import ConnectedAccount, Status

from . import scopes as scope_names
from .rows import account_rows

SESSION_KEY = "ilert_oauth_choice"
ASKED_KEY = "ilert_oauth_asked"


def matching(request: HttpRequest, scopes: str) -> list[ConnectedAccount]:
    """The latest connected first."""
    return [a for a in _own(request) if is_usable(a) and a.has_scopes(scopes)]


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

    First comes one that was asked for the scopes before: that tells who granted less from who was
    never asked, whichever of the user's accounts that happened to.
    """
    remembered = _remembered(request)
    candidates = [a for a in _own(request) if a.status != Status.DISCONNECTED]
    return max(
        candidates,
        key=lambda a: (is_usable(a), was_asked(a, scopes), a == remembered),
        default=None,
    )


def held(request: HttpRequest) -> dict[UUID, str]:
    """What each of the user's accounts was granted and has not given back."""
    return {a.uuid: a.granted_scope for a in _own(request) if a.status != Status.DISCONNECTED}


def held_scope(request: HttpRequest, client: str) -> str:
    """Of all accounts of one client, by its name."""
    granted, names = held(request), conf.client_keys()
    same = (a for a in _own(request) if names.get((a.api_url, a.client_id)) == client)
    return scope_names.union(*(granted.get(a.uuid, "") for a in same))


def has_account(request: HttpRequest, pk: str) -> bool:
    return any(str(account.pk) == pk for account in _own(request))


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
    for account in _own(request):
        if kept == str(account.pk) and account.status != Status.DISCONNECTED:
            return account
    request.session.pop(SESSION_KEY, None)
    return None


def _own(request: HttpRequest) -> list[ConnectedAccount]:
    kept: dict[object, list[ConnectedAccount]] = vars(request).setdefault("ilert_own_accounts", {})
    if request.user.is_authenticated and request.user.pk not in kept:
        rows = account_rows().for_user(request.user)
        kept[request.user.pk] = list(rows.order_by("-connected_at", "-pk"))
    return kept.get(request.user.pk, [])
