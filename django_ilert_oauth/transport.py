"""How requests travel to ilert, for the client and for ``IlertSession``."""

from __future__ import annotations

import ipaddress
import random
import time
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.util import Retry, parse_url

from .exceptions import IlertOAuthError

E = TypeVar("E", bound=BaseException)

#: Mounted by URL prefix on every session opened from now on: where tests put their transport.
adapters: dict[str, BaseAdapter] = {}


def open_session() -> requests.Session:
    """Tries once more where no connection came about: then nothing was sent."""
    session = requests.Session()
    retry = Retry(total=1, connect=1, read=False, redirect=0, status=0, other=0)
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    for prefix, adapter in adapters.items():
        session.mount(prefix, adapter)
    return session


def authorized(request: requests.PreparedRequest, access_token: str) -> requests.PreparedRequest:
    request.headers["Authorization"] = f"Bearer {access_token}"
    return request


def bare(error: E) -> E:
    """Without what led to it: the frames of ``requests`` hold whole bodies and headers."""
    error.__cause__ = error.__context__ = None
    for inner in (*error.args, getattr(error, "reason", None)):
        if isinstance(inner, BaseException):
            bare(inner)
    return error.with_traceback(None)


def no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps ``requests`` from adding a password from ``~/.netrc``."""
    return request


def require_safe(url: str) -> None:
    """Raises ``IlertOAuthError`` for a URL that secrets must not go to."""
    parts = parse_url(url)  # as requests reads it
    if parts.scheme != "https" and not _is_loopback((parts.host or "").strip("[]")):
        raise IlertOAuthError(
            "Secrets are not sent over plain http. Let ILERT_OAUTH_API_URL begin with https://.",
            code="insecure_endpoint",
        )


def proxies_for(url: str) -> dict[str, str]:
    """Plain http stays on this machine, whatever proxy the environment names."""
    return {"http": "", "all": ""} if urlsplit(url).scheme == "http" else {}


def retry_after(value: str | None) -> float | None:
    """Seconds from a ``Retry-After`` header: seconds or a date (RFC 9110, section 10.2.3)."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None


def pause_after_429(asked: float | None, *, most: float = 30) -> float:
    """Seconds. ilert asks for none (observed): its documentation says 10 to 30.

    Where none were asked for they are ``most`` at the most, but never less than 10.
    """
    if asked is not None:
        return max(asked, 1.0)
    return random.uniform(10, min(max(most, 10), 30))  # noqa: S311


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
