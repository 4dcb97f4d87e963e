"""The ``ILERT_OAUTH_*`` settings, read live: one property each.

A property raises ``ImproperlyConfigured`` in one clear line where its setting is missing or
malformed; ``checks.py`` reports the same lines ahead of time.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import timedelta
from math import isfinite
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.shortcuts import resolve_url

from .internal import scopes
from .oauth.secret import Secret

PREFIX = "ILERT_OAUTH_"

_HOST_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII | re.IGNORECASE)


def is_tenant(name: str) -> bool:
    """A tenant becomes part of a host name, so only a host label (RFC 1123) will do."""
    return _HOST_LABEL.fullmatch(name) is not None


class Conf:
    @property
    def client_id(self) -> str:
        return _required_string("CLIENT_ID")

    @property
    def client_secret(self) -> Secret:
        return Secret(_required_string("CLIENT_SECRET"))

    @property
    def encryption_keys(self) -> list[Secret]:
        """Never empty."""
        keys = _fernet_keys(_get("ENCRYPTION_KEYS"))
        if keys is None:
            raise _malformed("ENCRYPTION_KEYS", "a list of keys made by Fernet.generate_key()")
        if not keys:
            raise _missing("ENCRYPTION_KEYS")
        return keys

    @property
    def scopes(self) -> list[str]:
        given = _get("SCOPES", ["profile"])
        names = given.split() if isinstance(given, str) else _sequence("SCOPES", given)
        if not all(isinstance(name, str) and scopes.is_valid(name) for name in names):
            raise _malformed(
                "SCOPES", 'scopes such as ["profile", "source:w"] or "profile source:w"'
            )
        return list(names)

    @property
    def redirect_uri(self) -> str | None:
        uri = _get("REDIRECT_URI")
        return uri if uri is None else _url("REDIRECT_URI", uri)

    @property
    def app_url(self) -> str:
        return _base_url("APP_URL", _get("APP_URL", "https://app.ilert.com"))

    @property
    def api_url(self) -> str:
        return _base_url("API_URL", _get("API_URL", "https://api.ilert.com"))

    @property
    def tenant(self) -> str | None:
        tenant = _get("TENANT")
        if tenant is not None and not (isinstance(tenant, str) and is_tenant(tenant)):
            raise _malformed("TENANT", 'the first part of a host name, such as "acme"')
        return tenant

    @property
    def tenant_url(self) -> str:
        """A pattern with the one placeholder ``{tenant}``."""
        pattern = _get("TENANT_URL", "https://{tenant}.ilert.com")
        if not isinstance(pattern, str) or "{tenant}" not in pattern:
            raise _malformed("TENANT_URL", 'a URL such as "https://{tenant}.ilert.com"')
        _base_url("TENANT_URL", pattern.replace("{tenant}", "tenant"))
        return pattern.rstrip("/")

    @property
    def timeout(self) -> tuple[float, float]:
        """Seconds: to connect, to read."""
        pair = _sequence("TIMEOUT", _get("TIMEOUT", (5, 30)))
        if len(pair) != 2 or not all(_is_number(part) and part > 0 for part in pair):
            raise _malformed("TIMEOUT", "two numbers of seconds, to connect and to read: (5, 30)")
        return (pair[0], pair[1])

    @property
    def refresh_margin(self) -> timedelta:
        return _duration("REFRESH_MARGIN", timedelta(minutes=2))

    @property
    def min_refresh_interval(self) -> timedelta:
        return _duration("MIN_REFRESH_INTERVAL", timedelta(minutes=5))

    @property
    def requests_per_minute(self) -> int:
        """0 is no limit."""
        limit = _get("REQUESTS_PER_MINUTE", 600)
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
            raise _malformed("REQUESTS_PER_MINUTE", "an integer, 0 for no limit")
        return limit

    @property
    def revoke_on_delete(self) -> bool:
        return _bool("REVOKE_ON_DELETE", True)

    @property
    def read_only(self) -> bool:
        return _bool("READ_ONLY", False)

    @property
    def keep_events(self) -> timedelta:
        return _duration("KEEP_EVENTS", timedelta(days=400))

    @property
    def connected_url(self) -> str:
        return _page("CONNECTED_URL")

    @property
    def disconnected_url(self) -> str:
        return _page("DISCONNECTED_URL")


conf = Conf()

#: Each setting's name in full.
NAMES = [PREFIX + name.upper() for name, value in vars(Conf).items() if isinstance(value, property)]


def _get(name: str, default: Any = None) -> Any:
    return getattr(settings, PREFIX + name, default)


def _missing(name: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"{PREFIX}{name} is not set.")


def _malformed(name: str, wanted: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"{PREFIX}{name} must be {wanted}.")


def _required_string(name: str) -> str:
    # In no variable: error trackers show those of each frame that an exception passes.
    if not _get(name):
        raise _missing(name)
    if not isinstance(_get(name), str):
        raise _malformed(name, "a string")
    if _get(name) != _get(name).strip():
        raise _malformed(name, "a string without white space at its ends")
    return str(_get(name))


def _sequence(name: str, value: Any) -> Sequence[Any]:
    if value is None or isinstance(value, list | tuple):
        return value or ()
    raise _malformed(name, "a list or tuple")


def _fernet_keys(keys: Any) -> list[Secret] | None:
    """None for what is malformed: raised from here, an error would carry the keys."""
    if keys is None or keys == "":
        return []
    if not isinstance(keys, list | tuple):
        return None
    texts = [key.decode("ascii", "replace") if isinstance(key, bytes) else key for key in keys]
    if not all(isinstance(text, str) and _is_fernet_key(text) for text in texts):
        return None
    return [Secret(text) for text in texts]


def _is_fernet_key(text: str) -> bool:
    try:
        return len(text) == 44 and len(base64.urlsafe_b64decode(text)) == 32
    except (binascii.Error, ValueError):
        return False


def _base_url(name: str, value: Any) -> str:
    url = _url(name, value)
    if "?" in url:
        raise _malformed(name, "a URL without a query such as https://example.com")
    return url.rstrip("/")


def _url(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _is_url(value):
        raise _malformed(name, "a full URL such as https://example.com/path")
    return value


def _is_url(value: str) -> bool:
    """Plainly spelt, so that everybody reads the same host in it."""
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018
    except ValueError:
        return False
    is_plain = value.isprintable() and not set(value) & set(" \\@#")
    return is_plain and parts.scheme in ("http", "https") and bool(parts.hostname)


def _bool(name: str, default: bool) -> bool:
    value = _get(name, default)
    if not isinstance(value, bool):
        raise _malformed(name, "True or False")
    return value


def _page(name: str) -> str:
    page = _get(name, "ilert_oauth:accounts")
    if not isinstance(page, str):
        raise _malformed(name, "a URL or the name of one")
    return resolve_url(page)


def _duration(name: str, default: timedelta) -> timedelta:
    duration = _get(name, default)
    if not isinstance(duration, timedelta) or duration < timedelta(0):
        raise _malformed(name, "a timedelta, such as timedelta(minutes=5)")
    return duration


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
