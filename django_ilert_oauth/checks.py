"""System checks: each setting's own rule lives in ``conf.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections, router, transaction
from django.db.models import Count
from django.urls import NoReverseMatch

from .conf import NAMES, conf
from .internal import scopes, setting_values
from .internal.db import DatabaseTime
from .internal.setting_values import PREFIX

REQUIRED_APPS = ("django.contrib.auth", "django.contrib.sessions")
RECOMMENDED_APP = "django.contrib.messages"

HINTS = {
    PREFIX + "CLIENT_ID": "Copy it from your app's page in ilert, in the tab Applications.",
    PREFIX + "CLIENT_SECRET": "Copy it from your app's page in ilert, in the tab Applications.",
    PREFIX + "ENCRYPTION_KEYS": (
        "Generate a key with: python -c 'from cryptography.fernet import Fernet; "
        "print(Fernet.generate_key().decode())'"
    ),
}
MORE_HINTS = {
    PREFIX + "CLIENTS": (
        "Each client is a dict with CLIENT_ID and CLIENT_SECRET and, where they differ from those "
        "of the flat settings, API_URL, APP_URL and TENANT_URL."
    )
}
DEFAULT_HINT = "Correct it, or remove it to use the default."


def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    # Images are built before their settings are there, and makemigrations runs every check.
    if sys.argv[1:2] == ["makemigrations"]:
        return []
    settings_found = [*_missing(), *_malformed(), *_unknown()]
    scopes_found = _mistyped_scopes()
    return [*settings_found, *scopes_found, *_missing_apps(), *_database(), *_naive_times()]


def check_deployment(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    return [*_plain_http(), *_redirect_uri_behind_proxy(), *_strict_cookies()]


def check_clients(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """``check --database default``: it counts rows."""
    accounts = apps.get_model("ilert_oauth", "ConnectedAccount")
    alias = router.db_for_write(accounts)
    if alias not in (databases or ()):
        return []
    # Before the first migration there is no table; what is malformed is said elsewhere.
    with suppress(DatabaseError, ImproperlyConfigured), transaction.atomic(using=alias):
        return list(_unknown_clients(accounts.objects.using(alias)))
    return []


def _unknown_clients(accounts: Any) -> Iterator[CheckMessage]:
    held = accounts.exclude(status="disconnected").order_by("api_url", "client_id")
    groups = held.values_list("api_url", "client_id").annotate(Count("pk"))
    for api_url, client_id, count in groups:
        if not conf.has_client(api_url, client_id):
            yield Warning(
                f"{count} of the accounts belong to the client {client_id} of {api_url}, which is "
                "not configured: their tokens are neither used nor refreshed.",
                hint="Add it to ILERT_OAUTH_CLIENTS, or have these users reconnect.",
                id="ilert_oauth.W006",
            )


def _missing() -> Iterator[CheckMessage]:
    for name, hint in HINTS.items():
        if not getattr(settings, name, None):
            if _needs_credentials():
                yield Error(f"{name} is not set.", hint=hint, id="ilert_oauth.E001")
            else:
                yield Warning(f"{name} is not set.", hint=hint, id="ilert_oauth.W007")


def _needs_credentials() -> bool:
    """Of what runs checks, commands such as migrate and test do without. Django tells no check."""
    command = "".join(sys.argv[1:2])
    return command in ("check", "runserver") or "ilert" in command


def _malformed() -> Iterator[CheckMessage]:
    for name in NAMES:
        if name.endswith("CONNECTED_URL") and not hasattr(settings, "ROOT_URLCONF"):
            continue
        try:
            getattr(conf, name.removeprefix(PREFIX).lower())
        except ImproperlyConfigured as error:
            if getattr(settings, name, None) or name not in HINTS:
                hint = HINTS.get(name) or MORE_HINTS.get(name) or DEFAULT_HINT
                yield Error(str(error), hint=hint, id="ilert_oauth.E002")
        except NoReverseMatch:
            yield Error(
                f"{name} is neither a URL nor the name of one.",
                hint='Add path("ilert/", include("django_ilert_oauth.urls")) to your URLs, '
                "or name a page of yours.",
                id="ilert_oauth.E004",
            )


def _unknown() -> Iterator[CheckMessage]:
    for name in dir(settings):
        if name.startswith(PREFIX) and name not in NAMES:
            yield Error(
                f"{name} is not a setting of django_ilert_oauth.",
                hint=f"The settings are {', '.join(NAMES)}.",
                id="ilert_oauth.E003",
            )


def _mistyped_scopes() -> Iterator[CheckMessage]:
    """By what they look like: ilert adds scopes without notice."""
    given = getattr(settings, PREFIX + "SCOPES", None)
    names = given.split() if isinstance(given, str) else given
    for name in names if isinstance(names, list | tuple) else ():
        if isinstance(name, str) and (meant := scopes.nearest(name)):
            yield Warning(
                f"{PREFIX}SCOPES has {name!r}, which is not a scope that ilert documents.",
                hint=f"Did you mean {meant!r}?",
                id="ilert_oauth.W005",
            )


def _missing_apps() -> Iterator[CheckMessage]:
    for name in REQUIRED_APPS:
        if not apps.is_installed(name):
            yield Error(
                f"django_ilert_oauth needs {name}.",
                hint=f'Add "{name}" to INSTALLED_APPS, and its middleware.',
                id="ilert_oauth.E005",
            )
    if not apps.is_installed(RECOMMENDED_APP):
        yield Warning(
            f"{RECOMMENDED_APP} is not installed: only this app's own pages can tell users whether "
            "connecting has worked.",
            hint=f'Add "{RECOMMENDED_APP}" to INSTALLED_APPS, and its middleware.',
            id="ilert_oauth.W008",
        )


def _database() -> Iterator[CheckMessage]:
    alias = router.db_for_write(apps.get_model("ilert_oauth", "ConnectedAccount"))
    vendor = connections[alias].vendor
    if vendor not in DatabaseTime.SQL:
        yield Error(
            f"django_ilert_oauth does not support the database {vendor!r} of {alias!r}.",
            hint="Keep its tables in PostgreSQL, MariaDB, MySQL or SQLite; a router can choose it.",
            id="ilert_oauth.E006",
        )


def _naive_times() -> Iterator[CheckMessage]:
    if not settings.USE_TZ:
        yield Warning(
            "USE_TZ is off: in the hour in which clocks are set back, expiry times are wrong by an "
            "hour.",
            hint="Set USE_TZ = True.",
            id="ilert_oauth.W004",
        )


def _plain_http() -> Iterator[CheckMessage]:
    for name in _addresses():
        url = setting_values.get(name)
        if isinstance(url, str) and urlsplit(url).scheme == "http":
            yield Warning(
                f"{PREFIX}{name} is a plain http address: codes and tokens could be read.",
                hint="Use an address that begins with https://.",
                id="ilert_oauth.W001",
            )


def _addresses() -> Iterator[str]:
    yield from ("APP_URL", "API_URL", "TENANT_URL", "REDIRECT_URI")
    with suppress(ImproperlyConfigured):
        for client in setting_values.client_names():
            yield from (f"CLIENTS.{client}.{key}" for key in ("APP_URL", "API_URL", "TENANT_URL"))


def _redirect_uri_behind_proxy() -> Iterator[CheckMessage]:
    behind_proxy = settings.SECURE_PROXY_SSL_HEADER or settings.USE_X_FORWARDED_HOST
    if behind_proxy and not getattr(settings, PREFIX + "REDIRECT_URI", None):
        yield Warning(
            f"{PREFIX}REDIRECT_URI is not set, and the site is behind a proxy.",
            hint="Set the URI that is registered at ilert: it must match exactly.",
            id="ilert_oauth.W002",
        )


def _strict_cookies() -> Iterator[CheckMessage]:
    if settings.SESSION_COOKIE_SAMESITE == "Strict":
        yield Warning(
            'SESSION_COOKIE_SAMESITE is "Strict": browsers hide the session when ilert sends '
            "users back, so no account can be connected.",
            hint='Use "Lax".',
            id="ilert_oauth.W003",
        )
