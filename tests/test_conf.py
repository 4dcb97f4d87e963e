from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured

from django_ilert_oauth.conf import NAMES, Client, conf, is_tenant
from django_ilert_oauth.oauth.secret import Secret

KEY = "h3SWrXqcbGMlQIdYjnM9DKOXjcdnYWbu9SLrW_4XhNQ="

STAGING = {"CLIENT_ID": "staging-client", "CLIENT_SECRET": "staging-secret"}
DEFAULTS: dict[str, Any] = {
    "clients": {},
    "scopes": ["profile"],
    "redirect_uri": None,
    "app_url": "https://app.ilert.com",
    "api_url": "https://api.ilert.com",
    "tenant": None,
    "tenant_url": "https://{tenant}.ilert.com",
    "timeout": (5, 30),
    "refresh_margin": timedelta(minutes=2),
    "min_refresh_interval": timedelta(minutes=5),
    "requests_per_minute": 600,
    "revoke_on_delete": True,
    "read_only": False,
    "keep_events": timedelta(days=400),
    "notify_users": False,
    "accounts_for": None,
    "connected_url": "/ilert/",
    "disconnected_url": "/ilert/",
}
REQUIRED = ["CLIENT_ID", "CLIENT_SECRET", "ENCRYPTION_KEYS"]


def set_to(settings: Any, name: str, value: object) -> object:
    """What the app reads where the site says so."""
    setattr(settings, f"ILERT_OAUTH_{name}", value)
    return getattr(conf, name.lower())


def test_the_settings_are_the_documented_ones() -> None:
    assert sorted(NAMES) == sorted(f"ILERT_OAUTH_{name.upper()}" for name in [*DEFAULTS, *REQUIRED])


def test_settings_that_are_not_given_have_their_documented_defaults() -> None:
    assert {name: getattr(conf, name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize("name", REQUIRED)
def test_a_required_setting_that_is_absent_or_empty_counts_as_missing(
    settings: Any, name: str
) -> None:
    for value in (None, [] if name == "ENCRYPTION_KEYS" else ""):
        with pytest.raises(ImproperlyConfigured, match=f"^ILERT_OAUTH_{name} is not set\\.$"):
            set_to(settings, name, value)
    delattr(settings, f"ILERT_OAUTH_{name}")
    with pytest.raises(ImproperlyConfigured, match=f"^ILERT_OAUTH_{name} is not set\\.$"):
        getattr(conf, name.lower())


NO_BASE_URLS: list[object] = [
    "api.ilert.com",
    "//api.ilert.com",
    "ftp://api.ilert.com",
    "https://",
    "https://[api",
    "https://api.ilert.com:port",
    "https://api.ilert.com#top",
    "https://api.ilert.com?x=1",
    "https://api.ilert.com\n",
    "https://api.ilert.com ",
    "",
    None,
    b"https://api.ilert.com",
]
MALFORMED: dict[str, list[object]] = {
    "CLIENT_ID": [7, b"id", "id ", "\tid"],
    "CLIENT_SECRET": [
        7,
        b"secret",
        "secret\n",
        {"secret"},
        ["secret", ""],
        ["secret", 7],
        # As Python reads an environment that is not UTF-8: the error about it would quote it.
        "secret\udcff",
    ],
    "CLIENTS": [[STAGING], None, {7: STAGING}, {"a b": STAGING}, {"default": STAGING}],
    "ENCRYPTION_KEYS": [
        KEY,
        {KEY},
        ["short"],
        [KEY, "h3SWrXqcbGMl"],
        [KEY, None],
        [b"\xff" * 44],
        ["ä" * 44],
        [KEY + KEY],
    ],
    "SCOPES": [["profile source"], [""], [7], {"profile"}, 'profile "source"'],
    "REDIRECT_URI": ["/callback/", "", "https://site.example/#top", "https://[site", 7],
    "APP_URL": ["app.ilert.com"],
    "API_URL": NO_BASE_URLS,
    "TENANT": ["", "acme.ilert.com", "-acme", "acme/", "a" * 64, "acme\n", "äcme", 7],
    "TENANT_URL": [
        "https://acme.ilert.com",
        "{tenant}.ilert.com",
        "https://[{tenant}",
        "https://{tenant}.ilert.com?x=1",
        None,
        7,
    ],
    "TIMEOUT": [30, "30", None, (5,), (5, 30, 60), (0, 30), (5, None), (5, True), (5, math.inf)],
    "REFRESH_MARGIN": [120, None, timedelta(seconds=-1)],
    "MIN_REFRESH_INTERVAL": [300, None, timedelta(seconds=-1)],
    "REQUESTS_PER_MINUTE": ["600", 600.0, None, -1, True],
    "REVOKE_ON_DELETE": ["no", 0, None],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_setting_is_named_in_one_line_that_does_not_repeat_it(
    settings: Any, name: str
) -> None:
    lines = [complaint(settings, name, value) for value in MALFORMED[name]]
    assert [line for line in lines if not line.startswith(f"ILERT_OAUTH_{name} must be ")] == []


def complaint(settings: Any, name: str, value: object) -> str:
    with pytest.raises(ImproperlyConfigured) as caught:
        set_to(settings, name, value)
    line = str(caught.value)
    assert "\n" not in line
    assert KEY not in line
    return line


@pytest.mark.parametrize(
    ("client", "line"),
    [
        ("id", "CLIENTS.staging must be a dict with CLIENT_ID, "),
        (STAGING | {"CLIENTID": "typo"}, "CLIENTS.staging must be a dict with only CLIENT_ID, "),
        ({"CLIENT_ID": "id"}, "CLIENTS.staging.CLIENT_SECRET is not set."),
        ({"CLIENT_SECRET": KEY}, "CLIENTS.staging.CLIENT_ID is not set."),
        (STAGING | {"CLIENT_SECRET": KEY + " "}, "CLIENTS.staging.CLIENT_SECRET must be a string "),
        (STAGING | {"API_URL": "api"}, "CLIENTS.staging.API_URL must be a full URL "),
        (STAGING | {"APP_URL": "app"}, "CLIENTS.staging.APP_URL must be a full URL "),
        (STAGING | {"TENANT_URL": "https://x"}, "CLIENTS.staging.TENANT_URL must be a URL "),
        (STAGING | {"CLIENT_ID": "the-client"}, "CLIENTS must be clients that differ in "),
    ],
)
def test_a_malformed_client_is_named_in_one_line_that_does_not_repeat_it(
    settings: Any, client: object, line: str
) -> None:
    found = complaint(settings, "CLIENTS", {"staging": client})
    assert found.startswith(f"ILERT_OAUTH_{line}")


def test_a_client_takes_over_the_urls_of_the_flat_settings_that_it_does_not_name(
    settings: Any,
) -> None:
    settings.ILERT_OAUTH_API_URL = "https://gateway.example"
    settings.ILERT_OAUTH_CLIENTS = {"staging": STAGING | {"APP_URL": "https://app.example/"}}
    assert conf.client("staging") == Client(
        name="staging",
        client_id="staging-client",
        client_secrets=(Secret("staging-secret"),),
        api_url="https://gateway.example",
        app_url="https://app.example",
        tenant_url="https://{tenant}.ilert.com",
    )


def test_the_flat_settings_are_the_client_default() -> None:
    client = conf.client()
    assert (client.name, client.client_id) == ("default", "the-client")


def test_a_client_that_is_not_there_is_named() -> None:
    with pytest.raises(ImproperlyConfigured, match="ILERT_OAUTH_CLIENTS has no client 'nobody'"):
        conf.client("nobody")


READ = [
    ("CLIENT_ID", "id", "id"),
    ("CLIENT_SECRET", "secret", ("secret",)),
    ("CLIENT_SECRET", ["new", "old"], ("new", "old")),
    ("ENCRYPTION_KEYS", (KEY,), [KEY]),
    ("ENCRYPTION_KEYS", [KEY.encode()], [KEY]),
    ("SCOPES", ("profile", "brand_new:x"), ["profile", "brand_new:x"]),
    ("SCOPES", [], []),
    ("SCOPES", "profile  source:w", ["profile", "source:w"]),
    ("SCOPES", "", []),
    ("REDIRECT_URI", "http://localhost/ilert?x=1", "http://localhost/ilert?x=1"),
    ("APP_URL", "https://app.eu.ilert.com/", "https://app.eu.ilert.com"),
    ("API_URL", "http://127.0.0.1:8001/", "http://127.0.0.1:8001"),
    ("API_URL", "https://gateway.example/ilert/", "https://gateway.example/ilert"),
    ("TENANT", "Acme-1", "Acme-1"),
    ("TENANT_URL", "http://127.0.0.1:8001/t/{tenant}/", "http://127.0.0.1:8001/t/{tenant}"),
    ("TIMEOUT", [0.5, 2], (0.5, 2)),
    ("REFRESH_MARGIN", timedelta(0), timedelta(0)),
    ("MIN_REFRESH_INTERVAL", timedelta(0), timedelta(0)),
    ("REQUESTS_PER_MINUTE", 0, 0),
    ("REVOKE_ON_DELETE", False, False),
    ("CONNECTED_URL", "login", "/login/"),
    ("CONNECTED_URL", "/welcome/", "/welcome/"),
    ("DISCONNECTED_URL", "https://example.com/bye", "https://example.com/bye"),
]


def test_a_setting_is_read_live(settings: Any) -> None:
    found = [(name, value, set_to(settings, name, value)) for name, value, _read in READ]
    assert found == READ


def test_keys_and_the_client_secret_do_not_show_themselves(settings: Any) -> None:
    settings.ILERT_OAUTH_CLIENT_SECRET = "hunter2"
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [KEY, Fernet.generate_key()]
    shown = f"{conf.client_secret!r} {conf.encryption_keys!r}"
    assert "hunter2" not in shown
    assert KEY not in shown


def test_a_host_label_is_a_tenant() -> None:
    labels = ["acme", "ACME", "a", "a-b", "1a", "a" * 63]
    assert [label for label in labels if not is_tenant(label)] == []


def test_what_could_lead_to_another_host_is_no_tenant() -> None:
    others = ["", "-a", "a-", "a.b", "a/b", "a@b", "a:1", "a#", "a b", "a\n", "ä", "a_b", "ſ"]
    assert [name for name in [*others, "a" * 64] if is_tenant(name)] == []
