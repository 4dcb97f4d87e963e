"""URLs of the app's pages that bring the user back to where they were asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.http import HttpRequest
from django.shortcuts import resolve_url
from django.urls import Resolver404, get_script_prefix, resolve, reverse
from django.utils.http import url_has_allowed_host_and_scheme

from django_ilert_oauth.models import ConnectedAccount

from . import scopes as scope_names
from . import signed_scopes
from .setting_values import DEFAULT_CLIENT

MAX_NEXT_URL_LENGTH = 2000
#: What a view has that sends users without a matching account to connect.
GUARDED = "ilert_account_required"
#: What ``wants_json`` looks at.
JSON_HEADERS = ["Accept", "Sec-Fetch-Mode", "X-Requested-With"]


def connect_url(
    request: HttpRequest,
    *,
    scopes: str | Iterable[str] = (),
    next_url: str | None = None,
    account: ConnectedAccount | None = None,
    client: str = "",
) -> str:
    """Returns a URL of the connect page that also asks the user of this request for ``scopes``.

    An ``account`` is reconnected, and keeps the scopes that it was granted. ``client`` names one of
    ``ILERT_OAUTH_CLIENTS``. Afterwards the user comes back to ``next_url``, by default the page of
    this request. Scopes and client are signed for the user, and left out if nobody is logged in. If
    the URL is older than an hour, the user has to confirm before going to ilert.
    """
    query = {"account": account.pk if account else ""}
    return _url("connect", request, scopes, next_url, client, **query)


def choose_url(
    request: HttpRequest, *, scopes: str | Iterable[str] = (), next_url: str | None = None
) -> str:
    """Returns the URL of the page on which users choose between accounts with these scopes."""
    return _url("choose", request, scopes, next_url)


def return_url(request: HttpRequest) -> str:
    """The page of this request; where it is none that a link can open, the one before it."""
    if request.method in ("GET", "HEAD") and not wants_json(request):
        return request.get_full_path()
    page_before = safe_next_url(request, request.headers.get("Referer", ""))
    return page_before or reverse("ilert_oauth:accounts")


def back_url(request: HttpRequest, next_url: str) -> str:
    """Back from the connect page: not to a page that would send the user there again."""
    before = request.headers.get("Referer", "")
    for url in [url for url in (next_url, before) if safe_next_url(request, url)]:
        was_shown = request.build_absolute_uri(url) == before  # a redirect is no Referer
        if not _leads_to_connect(url, was_shown):
            return url
    return reverse("ilert_oauth:accounts")


def _leads_to_connect(url: str, was_shown: bool) -> bool:
    """Guarded pages, the login, and this app's own, from which there is another link."""
    path = unquote(urlsplit(url).path)
    if path == urlsplit(resolve_url(settings.LOGIN_URL)).path:
        return True
    try:
        match = resolve("/" + path.partition(get_script_prefix())[2])
    except Resolver404:
        return False
    views = (match.func, getattr(getattr(match.func, "view_class", None), "get", None))
    is_guarded = not was_shown and any(hasattr(view, GUARDED) for view in views)
    return "ilert_oauth" in match.app_names or is_guarded


def safe_next_url(request: HttpRequest, next_url: str) -> str:
    """Empty for a URL that leads off this site or from https to http, or that is too long."""
    is_safe = len(next_url) <= MAX_NEXT_URL_LENGTH and url_has_allowed_host_and_scheme(
        next_url, {request.get_host()}, require_https=request.is_secure()
    )
    return next_url if is_safe else ""


def wants_json(request: HttpRequest) -> bool:
    """A script that takes anything gets JSON, and a navigation that does the page."""
    types = ["text/html", "application/json"]
    if _is_from_script(request):
        types.reverse()
    return "application/json" in (request.get_preferred_type(types), request.content_type)


def _is_from_script(request: HttpRequest) -> bool:
    mode = request.headers.get("Sec-Fetch-Mode")
    sent_with = request.headers.get("X-Requested-With")
    return mode in ("cors", "same-origin") or sent_with == "XMLHttpRequest"


def _url(
    page: str,
    request: HttpRequest,
    scopes: str | Iterable[str],
    next_url: str | None,
    client: str = "",
    **query: Any,
) -> str:
    query["next"] = return_url(request) if next_url is None else next_url
    asked = scope_names.union(scopes)
    client = "" if client == DEFAULT_CLIENT else client  # which a link need not name
    if (asked or client) and request.user.is_authenticated:
        query["scopes"] = signed_scopes.sign(request.user, asked, client)
    given = {name: value for name, value in query.items() if value}
    return reverse(f"ilert_oauth:{page}", query=given)
