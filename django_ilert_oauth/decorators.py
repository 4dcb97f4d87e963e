"""For views that work in ilert: only a user with a matching account gets in."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from functools import partial, wraps
from typing import Any, TypeVar, cast, overload
from urllib.parse import urlsplit

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.views import redirect_to_login
from django.db import connections
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render, resolve_url
from django.utils.cache import add_never_cache_headers, patch_vary_headers

from . import exceptions
from .internal import account_selection
from .internal import scopes as scope_names
from .internal.return_urls import (
    JSON_HEADERS,
    choose_url,
    connect_url,
    return_url,
    wants_json,
)
from .models import ConnectedAccount

__all__ = ["IlertAccountRequiredMixin", "IlertHttpRequest", "connect_url", "ilert_account_required"]

logger = logging.getLogger(__name__)

View = TypeVar("View", bound=Callable[..., Any])


class IlertHttpRequest(HttpRequest):
    """The request of a view behind ``ilert_account_required``, for annotations."""

    ilert_account: ConnectedAccount


@overload
def ilert_account_required(view: View, *, scopes: str | Iterable[str] = ()) -> View: ...
@overload
def ilert_account_required(
    view: str | Iterable[str] = (), *, scopes: str | Iterable[str] = ()
) -> Callable[[View], View]: ...
def ilert_account_required(view: Any = (), *, scopes: str | Iterable[str] = ()) -> Any:
    """Lets only users with a matching account into the view.

    Others are sent to log in, to connect, extend or reconnect an account, or to choose one.

    Takes the scopes by their name or, as Django's ``permission_required``, alone. The view finds
    the account in ``request.ilert_account``: connected, readable, granted these scopes. Its token
    may have expired; ``IlertSession`` refreshes it. An ``IlertScopeError`` that the view lets pass
    sends the user to grant what is missing, once. Django's ``LoginRequiredMiddleware`` leaves the
    view alone, since programs get JSON here.
    """
    if callable(view):
        return _guard(scope_names.union(scopes), view)
    return partial(_guard, scope_names.union(view, scopes))


class IlertAccountRequiredMixin:
    """Does what ``ilert_account_required`` does, for class-based views; comes before ``View``.

    ``ilert_scopes`` is a string or an iterable of scopes.
    """

    ilert_scopes: str | Iterable[str] = ()

    @login_not_required
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        view = super().dispatch  # type: ignore[misc]
        return ilert_account_required(view, scopes=self.ilert_scopes)(request, *args, **kwargs)


def _guard(scopes: str, view: View) -> View:
    async def guarded_async(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if response := await sync_to_async(_refuse)(request, scopes):
            return response
        try:
            return await view(request, *args, **kwargs)
        except exceptions.IlertScopeError as error:
            return await sync_to_async(_ask_for_refused)(request, scopes, error)

    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if response := _refuse(request, scopes):
            return response
        try:
            return view(request, *args, **kwargs)
        except exceptions.IlertScopeError as error:
            return _ask_for_refused(request, scopes, error)

    guard: Any = guarded_async if _is_async(view) else guarded
    return cast(View, login_not_required(wraps(view)(guard)))


def _is_async(view: Callable[..., Any]) -> bool:
    """Also for the dispatch of an async class: a plain function that returns a coroutine."""
    instance = _instance(inspect.unwrap(view, stop=_instance))
    return iscoroutinefunction(view) or getattr(instance, "view_is_async", False)


def _instance(view: Callable[..., Any]) -> Any:
    """Whose method it is; ``method_decorator`` wraps that into a partial."""
    return getattr(getattr(view, "func", view), "__self__", None)


def _refuse(request: HttpRequest, scopes: str) -> HttpResponse | None:
    """Nothing for a user with a matching account, which is then in the request."""
    matching = account_selection.matching(request, scopes)
    account = account_selection.chosen(request, matching)
    if account is not None:
        cast(IlertHttpRequest, request).ilert_account = account
        return None
    return _for_this_request(_send_away(request, scopes))


def _for_this_request(response: HttpResponse) -> HttpResponse:
    add_never_cache_headers(response)
    patch_vary_headers(response, JSON_HEADERS)
    return response


def _ask_for_refused(
    request: HttpRequest, scopes: str, error: exceptions.IlertScopeError
) -> HttpResponse:
    """For what ilert has just refused, whatever the account is known to be granted.

    Raises the error again where ilert has not said what is missing.
    """
    missing = error.missing_scopes
    if not missing:
        raise error
    account = cast(IlertHttpRequest, request).ilert_account
    logger.warning("Account %s lacks a scope that a view needs: %s", account.pk, error)
    needed = scope_names.union(scopes, missing)
    may_ask = wants_json(request) or account_selection.may_ask(request, account, needed)
    response = _ask_for_more(request, needed, account, missing, may_ask=may_ask)
    _roll_back(request)
    return _for_this_request(response)


def _roll_back(request: HttpRequest) -> None:
    """What the view did, as Django would for an error that it sees (``ATOMIC_REQUESTS``)."""
    if request.resolver_match is None:
        return
    exempt = getattr(request.resolver_match.func, "_non_atomic_requests", ())
    for connection in connections.all(initialized_only=True):
        is_atomic = connection.settings_dict["ATOMIC_REQUESTS"] and connection.in_atomic_block
        if is_atomic and connection.alias not in exempt:
            connection.set_rollback(True)


def _send_away(request: HttpRequest, scopes: str) -> HttpResponse:
    if not request.user.is_authenticated:
        urls = {"login_url": _login_url(request), "connect_url": connect_url(request)}
        return _send(request, 401, "login_required", **urls)
    if account_selection.matching(request, scopes):
        url = choose_url(request, scopes=scopes)
        return _send(request, 403, "account_choice_required", choose_url=url)
    account = account_selection.account_to_reconnect(request, scopes)
    url = connect_url(request, scopes=scopes, account=account)
    if account is None:
        return _send(request, 401, "account_required", connect_url=url)
    if not account_selection.is_usable(account):
        return _send(request, 401, "reconnect_required", connect_url=url)
    missing = scope_names.missing(account.granted_scope, scopes)
    may_ask = wants_json(request) or not account_selection.was_asked(account, scopes)
    return _ask_for_more(request, scopes, account, missing, may_ask=may_ask)


def _ask_for_more(
    request: HttpRequest,
    scopes: str,
    account: ConnectedAccount,
    missing: list[str],
    *,
    may_ask: bool,
) -> HttpResponse:
    """Without a loop: a user who was asked already and granted less gets a page."""
    url = connect_url(request, scopes=scopes, account=account)
    if may_ask:
        return _send(request, 403, "insufficient_scope", connect_url=url, missing_scopes=missing)
    context = {
        "account": account,
        "connect_url": url,
        "sentences": scope_names.describe(missing),
    }
    return render(request, "ilert_oauth/scopes_missing.html", context, status=403)


def _send(request: HttpRequest, status: int, error: str, **facts: Any) -> HttpResponse:
    """A program gets all of the facts, a browser is sent to the first."""
    if wants_json(request):
        return JsonResponse({"error": error, **facts}, status=status)
    return HttpResponseRedirect(next(iter(facts.values())))


def _login_url(request: HttpRequest) -> str:
    next_url = return_url(request)
    if urlsplit(resolve_url(settings.LOGIN_URL)).netloc:
        next_url = request.build_absolute_uri(next_url)
    return redirect_to_login(next_url).url
