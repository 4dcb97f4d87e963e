"""Whether the user has a matching account, the way to one, and what pages are built of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import template
from django.core.exceptions import ImproperlyConfigured
from django.forms.utils import flatatt
from django.http import HttpRequest
from django.template.context import Context
from django.template.loader import render_to_string

from django_ilert_oauth.internal import account_selection, return_urls
from django_ilert_oauth.internal import scopes as scope_names
from django_ilert_oauth.models import ConnectedAccount

register = template.Library()


@register.simple_tag(takes_context=True)
def ilert_account(context: Context, scopes: str | Iterable[str] = ()) -> ConnectedAccount | None:
    """The user's account that has these scopes; of several the chosen one, or the latest."""
    return account_selection.preferred(_request(context), scope_names.union(scopes))


@register.simple_tag(takes_context=True)
def ilert_connect_url(
    context: Context, scopes: str | Iterable[str] = (), next_url: str | None = None
) -> str:
    """Reconnects the account that lacks the scopes or needs it; back here unless said otherwise."""
    return _connect_url(context, scopes, next_url)[0]


@register.inclusion_tag("ilert_oauth/connect_button.html", takes_context=True)
def ilert_connect_button(
    context: Context, scopes: str | Iterable[str] = (), next_url: str | None = None, text: str = ""
) -> dict[str, Any]:
    url, account = _connect_url(context, scopes, next_url)
    if account and not account_selection.may_manage(_request(context), account):
        account = None
    is_extension = account is not None and account_selection.is_usable(account)
    return {"connect_url": url, "account": account, "is_extension": is_extension, "text": text}


@register.simple_block_tag
def ilert_element(
    content: str, element: str, style: str = "", href: str = "", **attributes: Any
) -> str:
    """A template of ``elements/`` around the content; ``aria_label`` is ``aria-label``."""
    attrs = flatatt({name.replace("_", "-"): value for name, value in attributes.items()})
    values = {"content": content, "style": style, "href": href, "attrs": attrs}
    return render_to_string(f"ilert_oauth/elements/{element}.html", values)


def _connect_url(
    context: Context, scopes: str | Iterable[str], next_url: str | None
) -> tuple[str, ConnectedAccount | None]:
    request, needed = _request(context), scope_names.union(scopes)
    has_one = account_selection.matching(request, needed)
    account = None if has_one else account_selection.account_to_reconnect(request, needed)
    url = return_urls.connect_url(request, scopes=needed, next_url=next_url, account=account)
    return url, account


def _request(context: Context) -> HttpRequest:
    request = context.get("request")
    if not isinstance(request, HttpRequest):
        raise ImproperlyConfigured(
            "The tags of ilert_oauth need the request: add "
            "django.template.context_processors.request to the context processors, and render "
            "the template with its request."
        )
    return request
