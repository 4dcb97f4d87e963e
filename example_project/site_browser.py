"""A browser's part in the walkthrough: pages are read, forms are sent as they were found."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import requests

TIMEOUT = 10


class StepError(Exception):
    """Why a step did not hold; names no address with its query, which may hold a code."""


@dataclass
class Form:
    action: str
    fields: dict[str, str] = field(default_factory=dict)


class Page(HTMLParser):
    """``texts`` has what is in each element with an id and nothing but text."""

    def __init__(self, url: str, html: str) -> None:
        super().__init__()
        self.url = url
        self.html = html
        self.forms: list[Form] = []
        self.texts: dict[str, str] = {}
        self._open_id: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self._open_id = named.get("id")
        if tag == "form":
            self.forms.append(Form(urljoin(self.url, named.get("action", ""))))
        elif tag == "input" and "name" in named:
            self.forms[-1].fields[named["name"]] = named.get("value", "")

    def handle_data(self, text: str) -> None:
        if self._open_id is not None:
            self.texts[self._open_id] = self.texts.get(self._open_id, "") + text

    def handle_endtag(self, tag: str) -> None:
        self._open_id = None

    def form(self, path: str) -> Form:
        for form in self.forms:
            if urlsplit(form.action).path == path:
                return form
        raise StepError(f"{urlsplit(self.url).path} has no form for {path}")

    def require(self, text: str) -> None:
        if text not in self.html:
            raise StepError(f'{urlsplit(self.url).path} does not say "{text}"')


class SiteBrowser:
    def __init__(self, site_url: str) -> None:
        self._site_url = site_url
        self.session = requests.Session()
        self.session.trust_env = False

    def open(self, path: str) -> Page:
        return _page(self.session.get(urljoin(self._site_url, path), timeout=TIMEOUT))

    def submit(self, page: Page, path: str, **filled_in: str) -> Page:
        form = page.form(path)
        fields = form.fields | filled_in
        return _page(self.session.post(form.action, data=fields, timeout=TIMEOUT))

    def leave(self, page: Page, path: str) -> str:
        """Where the form leads to, which is not followed."""
        form = page.form(path)
        response = self.session.post(
            form.action, data=form.fields, timeout=TIMEOUT, allow_redirects=False
        )
        if not response.is_redirect:
            raise StepError(f"{path} leads nowhere: the response was {response.status_code}")
        return response.headers["Location"]


def _page(response: requests.Response) -> Page:
    if not response.ok:
        raise StepError(f"{urlsplit(response.url).path} responded with {response.status_code}")
    return Page(response.url, response.text)
