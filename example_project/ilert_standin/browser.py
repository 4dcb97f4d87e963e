"""Walks the stand-in's pages as a person would, over real HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin

import requests

TIMEOUT = 10


def authorize(
    authorize_url: str,
    *,
    tenant: str = "acme",
    username: str = "grace",
    allow: bool = True,
    session: requests.Session | None = None,
) -> str:
    """The callback URL that the stand-in redirects to, which is not followed."""
    with _browser(session) as browser:
        page = browser.open(authorize_url)
        if page.callback_url:
            return page.callback_url
        page = browser.log_in(page, f"{tenant}/{username}")
        page = browser.press(page, "decision", "allow" if allow else "deny")
    if not page.callback_url:
        raise RuntimeError("the stand-in did not send the user back")
    return page.callback_url


def revoke(base_url: str, *, tenant: str, username: str) -> None:
    with _browser(None) as browser:
        page = browser.open(f"{base_url}/manage-applications")
        page = browser.log_in(page, f"{tenant}/{username}")
        browser.press(page, "revoke", "yes")


@dataclass
class _Form:
    hidden: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)


class _Forms(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[_Form] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append(_Form())
        elif tag == "input":
            self.found[-1].hidden[named["name"]] = named["value"]
        elif tag == "button":
            self.found[-1].buttons.append((named["name"], named["value"]))


@dataclass
class _Page:
    url: str
    forms: list[_Form]
    callback_url: str = ""

    def form_with(self, name: str, value: str) -> _Form:
        for form in self.forms:
            if (name, value) in form.buttons:
                return form
        raise LookupError(f"the page has no button {name}={value}")

    def shows(self, name: str) -> bool:
        return any(name == button for form in self.forms for button, _ in form.buttons)


class _Browser:
    def __init__(self, session: requests.Session) -> None:
        self._session = session

    def open(self, url: str) -> _Page:
        return self._read(self._session.get(url, allow_redirects=False, timeout=TIMEOUT))

    def press(self, page: _Page, name: str, value: str) -> _Page:
        form = {**page.form_with(name, value).hidden, name: value}
        return self._read(
            self._session.post(page.url, data=form, allow_redirects=False, timeout=TIMEOUT)
        )

    def log_in(self, page: _Page, account: str) -> _Page:
        """As this user, whoever the session was before."""
        if page.shows("log_out"):
            page = self.press(page, "log_out", "yes")
        return self.press(page, "account", account)

    def _read(self, response: requests.Response) -> _Page:
        response.raise_for_status()
        if response.status_code == 303:
            return self.open(urljoin(response.url, response.headers["Location"]))
        callback_url = response.headers.get("Location", "")
        return _Page(response.url, _Forms(response.text).found, callback_url)


@contextmanager
def _browser(session: requests.Session | None) -> Iterator[_Browser]:
    if session is not None:
        yield _Browser(session)
        return
    with requests.Session() as own_session:
        own_session.trust_env = False
        yield _Browser(own_session)
