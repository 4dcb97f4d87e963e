"""Guards for views that call ilert: they let in only users with a matching account."""

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
    GUARDED,
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

#: What the user of a request can do something about.
_FIXABLE = (exceptions.IlertScopeError, exceptions.ReconnectRequiredError)


class IlertHttpRequest(HttpRequest):
    """The type of the request in a view behind ``ilert_account_required``, for type checkers."""

    ilert_account: ConnectedAccount


@overload
def ilert_account_required(view: View, *, scopes: str | Iterable[str] = ()) -> View: ...
@overload
def ilert_account_required(
    view: str | Iterable[str] = (), *, scopes: str | Iterable[str] = ()
) -> Callable[[View], View]: ...
def ilert_account_required(view: Any = (), *, scopes: str | Iterable[str] = ()) -> Any:
    """Lets only users with a matching account into the view; it may be sync or async.

    All others are sent to log in, to connect or reconnect an account, to grant more scopes, or to
    choose an account. Programs get JSON instead.

    Use it as ``@ilert_account_required``, ``@ilert_account_required("source:w")`` or
    ``@ilert_account_required(scopes=[...])``. In the view, ``request.ilert_account`` is an account
    that is connected, can be decrypted, and was granted these scopes. Its access token may have
    expired: ``IlertSession`` refreshes it. If the view raises ``IlertScopeError``, the user is sent
    to grant the scopes that are missing, once; if it raises ``ReconnectRequiredError``, to
    reconnect. Django's ``LoginRequiredMiddleware`` skips the view.
    """
    if callable(view):
        return _guard(scope_names.union(scopes), view)
    return partial(_guard, scope_names.union(view, scopes))


def _marked(guard: Any) -> Any:
    setattr(guard, GUARDED, True)
    return login_not_required(guard)


class IlertAccountRequiredMixin:
    """Does the same as ``ilert_account_required``, for class-based views; put it before ``View``.

    ``ilert_scopes`` is a string or an iterable of scopes.
    """

    ilert_scopes: str | Iterable[str] = ()

    @_marked
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        view = super().dispatch  # type: ignore[misc]
        return ilert_account_required(view, scopes=self.ilert_scopes)(request, *args, **kwargs)


def _guard(scopes: str, view: View) -> View:
    async def guarded_async(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if response := await sync_to_async(_refuse)(request, scopes):
            return response
        try:
            return await view(request, *args, **kwargs)
        except _FIXABLE as error:
            return await sync_to_async(_send_to_fix)(request, scopes, error)

    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if response := _refuse(request, scopes):
            return response
        try:
            return view(request, *args, **kwargs)
        except _FIXABLE as error:
            return _send_to_fix(request, scopes, error)

    guard: Any = guarded_async if _is_async(view) else guarded
    return cast(View, _marked(wraps(view)(guard)))


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


def _send_to_fix(request: HttpRequest, scopes: str, error: Exception) -> HttpResponse:
    """Raises the error again if it is about an account other than that of the request."""
    account = cast(IlertHttpRequest, request).ilert_account
    if isinstance(error, exceptions.IlertScopeError):
        response = _ask_for_refused(request, scopes, account, error)
    elif account_selection.is_usable(account):
        raise error
    else:
        url = connect_url(request, scopes=scopes, account=account)
        response = _send(request, 401, "reconnect_required", connect_url=url)
    _roll_back(request)
    return _for_this_request(response)


def _ask_for_refused(
    request: HttpRequest, scopes: str, account: ConnectedAccount, error: exceptions.IlertScopeError
) -> HttpResponse:
    """For what ilert has just refused, whatever the account is known to be granted.

    Raises the error again where ilert has not said what is missing.
    """
    if not error.missing_scopes:
        raise error
    logger.warning("Account %s lacks a scope that a view needs: %s", account.pk, error)
    needed = scope_names.union(scopes, error.missing_scopes)
    may_ask = wants_json(request) or account_selection.may_ask(request, account, needed)
    return _ask_for_more(request, needed, account, error.missing_scopes, may_ask=may_ask)


def _roll_back(request: HttpRequest) -> None:
    """What the view did, as Django would for an error that it sees (``ATOMIC_REQUESTS``)."""
    if request.resolver_match is None:
        return
    # What non_atomic_requests() leaves on a view. Django has no public name for it.
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
    """Without a loop: a user who was asked already and granted less gets a page.

    What only its owner can extend, the page of connecting says.
    """
    url = connect_url(request, scopes=scopes, account=account)
    if may_ask or not account_selection.may_manage(request, account):
        return _send(request, 403, "insufficient_scope", connect_url=url, missing_scopes=missing)
    context = {"account": account, "connect_url": url, "sentences": scope_names.describe(missing)}
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
