"""What a person does who is asked for scopes: reads the connect page, goes to ilert, comes back."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

from django.test import Client

from ilert_standin.browser import authorize
from site_browser import Page

CONNECT = "/ilert/connect/"


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


def is_sent_to_connect(response: Any) -> bool:
    return bool(response.status_code == 302 and urlsplit(response["Location"]).path == CONNECT)


def press(browser: Client, page: Any, **filled_in: str) -> str:
    """Where the button on a connect page leads to."""
    form = Page(CONNECT, page.content.decode()).form(CONNECT)
    left: Any = browser.post(CONNECT, form.fields | filled_in)
    assert left.status_code == 302, left.content
    return str(left["Location"])


def scopes_asked_at_ilert(browser: Client, page: Any, **filled_in: str) -> set[str]:
    return set(query_of(press(browser, page, **filled_in))["scope"].split())


def go_through_ilert(browser: Client, sent: Any, username: str = "grace") -> str:
    """From the response that sends the user to connect to where they land in the end."""
    page = browser.get(sent["Location"])
    callback: Any = browser.get(authorize(press(browser, page), username=username))
    assert callback.status_code == 302
    return str(callback["Location"])
