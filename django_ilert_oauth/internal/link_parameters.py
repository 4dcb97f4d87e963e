"""What a link or a form asks one of the app's pages for."""

from __future__ import annotations

from django.http import HttpRequest
from django.utils.translation import gettext as _

from django_ilert_oauth.models import ConnectedAccount

from . import account_selection, signed_scopes


def given(request: HttpRequest) -> dict[str, str]:
    """The body first, as in Django's ``LoginView``; only it may name a tenant."""
    query = {name: str(value) for name, value in request.GET.items() if name != "tenant"}
    return query | {name: str(value) for name, value in request.POST.items()}


def check(request: HttpRequest, given: dict[str, str]) -> list[str]:
    """Drops what no longer holds, and returns what to tell the user about it."""
    notices = [_sign_scopes_again(request, given), _drop_stale_account(request, given)]
    return [notice for notice in notices if notice]


def _named(pk: str, accounts: list[ConnectedAccount]) -> ConnectedAccount | None:
    return next((account for account in accounts if str(account.pk) == pk), None)


def _sign_scopes_again(request: HttpRequest, given: dict[str, str]) -> str:
    """The page shows what an old link asks for, so that it is asked for once it was seen."""
    signed = given.get("scopes", "")
    given["scopes"] = signed_scopes.sign_again(request.user, signed)
    if signed and not given["scopes"]:
        return _(
            "The link that brought you here was made for somebody else or is incomplete, so this "
            "site asks only for its usual access below. Go back to the page that you came from to "
            "be asked again."
        )
    if signed and not signed_scopes.is_current(request.user, signed):
        return _(
            "The link or page that brought you here is more than an hour old. Please look once "
            "more at what is asked for below."
        )
    return ""


def _drop_stale_account(request: HttpRequest, given: dict[str, str]) -> str:
    pk = given.get("account", "")
    if not pk or _named(pk, account_selection.manageable(request)):
        return ""
    given["account"] = ""
    if account := _named(pk, account_selection.accounts_for(request)):
        return _(
            "Only its owner can reconnect %(account)s or allow more: below, you connect another "
            "account."
        ) % {"account": account}
    return _("The account to reconnect is no longer here: below, you connect another account.")
