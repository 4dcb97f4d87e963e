"""The way of a user through the pages of any site, over HTTP, to the stand-in and back."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

from ilert_standin import Options, StandIn
from ilert_standin.browser import authorize
from site_browser import Page, SiteBrowser

TENANT, USERNAME = "acme", "grace"
PERSON = f"{USERNAME} @ {TENANT}"
#: The command that refreshes what has just been connected.
REFRESH = ("refresh_ilert_tokens", "--within", "2h", "--force")


def standin_for(site_url: str, *, client_id: str, client_secret: str) -> StandIn:
    """One that sends users back to the site's pages below ``/ilert/``."""
    callback = urljoin(site_url, "/ilert/callback/")
    return StandIn(
        Options(client_id=client_id, client_secret=client_secret, redirect_uris=[callback])
    )


def log_in(site: SiteBrowser, path: str, **credentials: str) -> Page:
    """From a page that sends those who are not logged in to log in, and back."""
    page = site.open(path)
    back = site.submit(page, urlsplit(page.url).path, **credentials)
    assert urlsplit(back.url).path == path, f"led to {urlsplit(back.url).path}"
    return back


def connect(site: SiteBrowser, standin: StandIn, pages: str = "/ilert/") -> Page:
    form = f"{pages}connect/"
    leave = site.leave(site.open(form), form)
    page = site.open(authorize(leave, tenant=TENANT, username=USERNAME))
    page.require(PERSON)
    assert standin.live_refresh_tokens(TENANT, USERNAME) == 1
    return page


def disconnect(site: SiteBrowser, standin: StandIn, pages: str = "/ilert/") -> None:
    [path] = set(re.findall(rf"{pages}\d+/disconnect/", site.open(pages).html))
    site.submit(site.open(path), path)
    assert standin.live_refresh_tokens(TENANT, USERNAME) == 0


def walk(
    site: SiteBrowser, standin: StandIn, refresh: Callable[[], object], pages: str = "/ilert/"
) -> Page:
    """From logged in to disconnected; the accounts page in between, with the account."""
    connect(site, standin, pages)
    requests = len(standin.token_requests)
    refresh()
    assert len(standin.token_requests) == requests + 1
    page = site.open(pages)
    page.require(PERSON)
    disconnect(site, standin, pages)
    return page
