"""The ``ILERT_OAUTH_*`` settings, read live: one property each.

A property raises ``ImproperlyConfigured`` in one clear line where its setting is missing or
malformed; ``checks.py`` reports the same lines ahead of time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.shortcuts import resolve_url

from .internal import scopes
from .internal import setting_values as values
from .internal.key_source import KeySource
from .internal.setting_values import DEFAULT_CLIENT, PREFIX
from .oauth.secret import Secret

_HOST_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII | re.IGNORECASE)


def is_tenant(name: str) -> bool:
    """A tenant becomes part of a host name, so only a host label (RFC 1123) will do."""
    return _HOST_LABEL.fullmatch(name) is not None


@dataclass(frozen=True)
class Client:
    """One app that is registered at ilert. The first of its secrets is tried first."""

    name: str
    client_id: str
    client_secrets: tuple[Secret, ...]
    api_url: str
    app_url: str
    #: A pattern with the one placeholder ``{tenant}``.
    tenant_url: str


#: One for the process, since it keeps what a callable has returned.
key_source = KeySource()


class Conf:
    @property
    def client_id(self) -> str:
        return values.required_string("CLIENT_ID")

    @property
    def client_secret(self) -> tuple[Secret, ...]:
        """Never empty; each is tried where ilert refuses the one before as ``invalid_client``."""
        return values.client_secrets("CLIENT_SECRET")

    @property
    def clients(self) -> dict[str, Client]:
        """Those beside the client of the flat settings, by name; they inherit its URLs."""
        clients = {name: self.client(name) for name in values.client_names()}
        keys = [(it.api_url, it.client_id) for it in clients.values()]
        if keys and len({*keys, self._default_key()}) <= len(keys):
            raise values.malformed("CLIENTS", "clients that differ in CLIENT_ID or API_URL")
        return clients

    def client(self, name: str = DEFAULT_CLIENT) -> Client:
        if name != DEFAULT_CLIENT and name not in values.client_names():
            raise ImproperlyConfigured(f"{PREFIX}CLIENTS has no client {name!r}.")
        of = values.keys_of_client(name)
        return Client(
            name,
            values.required_string(of + "CLIENT_ID"),
            values.client_secrets(of + "CLIENT_SECRET"),
            values.base_url(of + "API_URL", self.api_url),
            values.base_url(of + "APP_URL", self.app_url),
            values.tenant_url(of + "TENANT_URL", self.tenant_url),
        )

    def client_keys(self) -> dict[tuple[str, str], str]:
        """The name of each client by its API URL and client ID, which tell whose a grant is."""
        named = {(it.api_url, it.client_id): name for name, it in self.clients.items()}
        return {self._default_key(): DEFAULT_CLIENT, **named}

    def client_name(self, row: Any) -> str | None:
        """Of the client that a row's grant belongs to; None where it is not configured."""
        return self.client_keys().get((row.api_url, row.client_id))

    def has_client(self, api_url: str, client_id: str) -> bool:
        key = (api_url, client_id)
        return key == self._default_key() or key in self.client_keys()

    def _default_key(self) -> tuple[str, str]:
        return self.api_url, values.get("CLIENT_ID", "")

    @property
    def encryption_keys(self) -> list[Secret]:
        """Never empty."""
        keys = key_source.keys()
        if keys is None:
            wanted = "a list of keys made by Fernet.generate_key(), or a callable that returns one"
            raise values.malformed("ENCRYPTION_KEYS", wanted)
        if not keys:
            raise values.missing("ENCRYPTION_KEYS")
        return keys

    @property
    def scopes(self) -> list[str]:
        given = values.get("SCOPES", ["profile"])
        names = given.split() if isinstance(given, str) else values.sequence("SCOPES", given)
        if not all(isinstance(name, str) and scopes.is_valid(name) for name in names):
            wanted = 'scopes such as ["profile", "source:w"] or "profile source:w"'
            raise values.malformed("SCOPES", wanted)
        return list(names)

    @property
    def redirect_uri(self) -> str | None:
        uri = values.get("REDIRECT_URI")
        return uri if uri is None else values.url("REDIRECT_URI", uri)

    @property
    def app_url(self) -> str:
        return values.base_url("APP_URL", "https://app.ilert.com")

    @property
    def api_url(self) -> str:
        return values.base_url("API_URL", "https://api.ilert.com")

    @property
    def tenant(self) -> str | None:
        tenant = values.get("TENANT")
        if tenant is not None and not (isinstance(tenant, str) and is_tenant(tenant)):
            raise values.malformed("TENANT", 'the first part of a host name, such as "acme"')
        return tenant

    @property
    def tenant_url(self) -> str:
        """A pattern with the one placeholder ``{tenant}``."""
        return values.tenant_url("TENANT_URL", "https://{tenant}.ilert.com")

    @property
    def timeout(self) -> tuple[float, float]:
        """Seconds: to connect, to read."""
        pair = values.sequence("TIMEOUT", values.get("TIMEOUT", (5, 30)))
        if len(pair) != 2 or not all(values.is_number(part) and part > 0 for part in pair):
            wanted = "two numbers of seconds, to connect and to read: (5, 30)"
            raise values.malformed("TIMEOUT", wanted)
        return (pair[0], pair[1])

    @property
    def refresh_margin(self) -> timedelta:
        return values.duration("REFRESH_MARGIN", timedelta(minutes=2))

    @property
    def min_refresh_interval(self) -> timedelta:
        return values.duration("MIN_REFRESH_INTERVAL", timedelta(minutes=5))

    @property
    def requests_per_minute(self) -> int:
        """0 is no limit."""
        limit = values.get("REQUESTS_PER_MINUTE", 600)
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
            raise values.malformed("REQUESTS_PER_MINUTE", "an integer, 0 for no limit")
        return limit

    @property
    def revoke_on_delete(self) -> bool:
        return values.boolean("REVOKE_ON_DELETE", True)

    @property
    def read_only(self) -> bool:
        return values.boolean("READ_ONLY", False)

    @property
    def keep_events(self) -> timedelta:
        return values.duration("KEEP_EVENTS", timedelta(days=400))

    @property
    def notify_users(self) -> bool:
        is_on = values.boolean("NOTIFY_USERS", False)
        if is_on and self.redirect_uri is None:
            raise ImproperlyConfigured(
                f"{PREFIX}NOTIFY_USERS needs {PREFIX}REDIRECT_URI: an e-mail's link leads there."
            )
        return is_on

    @property
    def accounts_for(self) -> Callable[[HttpRequest], Any] | None:
        return values.function("ACCOUNTS_FOR")

    @property
    def connected_url(self) -> str:
        return _page("CONNECTED_URL")

    @property
    def disconnected_url(self) -> str:
        return _page("DISCONNECTED_URL")


conf = Conf()

#: Each setting's name in full.
NAMES = [PREFIX + name.upper() for name, value in vars(Conf).items() if isinstance(value, property)]


def _page(name: str) -> str:
    page = values.get(name, "ilert_oauth:accounts")
    if not isinstance(page, str):
        raise values.malformed(name, "a URL or the name of one")
    return resolve_url(page)
