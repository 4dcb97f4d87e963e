from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.checks import CheckMessage, run_checks
from django.db import OperationalError, connection

from django_ilert_oauth.checks import check_clients, check_deployment, check_settings
from django_ilert_oauth.testing import connected_account
from tests.test_conf import KEY, MALFORMED

ROOT = Path(__file__).parents[1]
PLAIN_SITE = """
SECRET_KEY = "plain"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_ilert_oauth",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
STATIC_URL = "static/"
STATIC_ROOT = "static"
"""
WITH_URLS = PLAIN_SITE + 'ROOT_URLCONF = "plain_urls"\n'
PLAIN_URLS = """
from django.urls import include, path
urlpatterns = [path("ilert/", include("django_ilert_oauth.urls"))]
"""


@pytest.fixture(autouse=True)
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Says which command asks; ``check``, unless a test says so."""

    def choose(name: str) -> None:
        monkeypatch.setattr(sys, "argv", ["manage.py", name])

    choose("check")
    return choose


@pytest.fixture
def deployed(settings: Any) -> Any:
    """A site that ``check --deploy`` has nothing to say about."""
    settings.SESSION_COOKIE_SECURE = settings.CSRF_COOKIE_SECURE = True
    settings.ILERT_OAUTH_REDIRECT_URI = "https://site.example/ilert/callback/"
    return settings


def found(messages: list[CheckMessage]) -> list[tuple[str | None, str]]:
    """The id and the first word of each; each has a hint, in one line."""
    for message in messages:
        assert message.hint
        assert "\n" not in f"{message.msg}{message.hint}"
    return [(message.id, message.msg.split(" ")[0]) for message in messages]


def test_a_site_that_is_set_up_has_nothing_to_fix() -> None:
    assert check_settings(None) == []


@pytest.mark.parametrize("name", ["CLIENT_ID", "CLIENT_SECRET", "ENCRYPTION_KEYS"])
def test_e001_names_a_missing_setting(settings: Any, name: str) -> None:
    setattr(settings, f"ILERT_OAUTH_{name}", None)
    assert found(check_settings(None)) == [("ilert_oauth.E001", f"ILERT_OAUTH_{name}")]


def test_w007_keeps_no_command_from_running_that_needs_no_credentials(
    settings: Any, command: Callable[[str], None]
) -> None:
    del settings.ILERT_OAUTH_CLIENT_ID
    expected = {
        "check": ["ilert_oauth.E001"],
        "runserver": ["ilert_oauth.E001"],
        "refresh_ilert_tokens": ["ilert_oauth.E001"],
        "migrate": ["ilert_oauth.W007"],
        "test": ["ilert_oauth.W007"],
        "makemigrations": [],
    }
    for name, ids in expected.items():
        command(name)
        assert [message.id for message in check_settings(None)] == ids, name


def test_e001_tells_how_to_make_a_key(settings: Any) -> None:
    del settings.ILERT_OAUTH_ENCRYPTION_KEYS
    [message] = check_settings(None)
    command = (message.hint or "").partition("python -c ")[2].strip("'")
    result = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [result.stdout.strip()]
    assert check_settings(None) == []


def test_e002_names_malformed_settings(settings: Any) -> None:
    for name, values in MALFORMED.items():
        setattr(settings, f"ILERT_OAUTH_{name}", next(value for value in values if value))
    names = {name for id, name in found(check_settings(None)) if id == "ilert_oauth.E002"}
    assert names == {f"ILERT_OAUTH_{name}" for name in MALFORMED}


def test_e002_does_not_repeat_a_malformed_key(settings: Any) -> None:
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = KEY
    [message] = check_settings(None)
    assert KEY not in f"{message.msg}{message.hint}"


def test_e003_names_a_setting_that_does_not_exist(settings: Any) -> None:
    settings.ILERT_OAUTH_CLIENTID = "typo"
    assert found(check_settings(None)) == [("ilert_oauth.E003", "ILERT_OAUTH_CLIENTID")]


def test_e002_names_a_client_with_a_mistyped_key_and_says_what_a_client_has(settings: Any) -> None:
    settings.ILERT_OAUTH_CLIENTS = {"staging": {"CLIENTID": "typo"}}
    messages = check_settings(None)
    assert found(messages) == [("ilert_oauth.E002", "ILERT_OAUTH_CLIENTS.staging")]
    assert "CLIENT_ID and CLIENT_SECRET" in (messages[0].hint or "")


@pytest.mark.parametrize("name", ["CONNECTED_URL", "DISCONNECTED_URL"])
def test_e004_names_a_url_that_leads_nowhere(settings: Any, name: str) -> None:
    for value in ("nowhere", ""):
        setattr(settings, f"ILERT_OAUTH_{name}", value)
        assert found(check_settings(None)) == [("ilert_oauth.E004", f"ILERT_OAUTH_{name}")]


def test_a_url_that_is_no_text_is_reported_and_does_not_end_the_check(settings: Any) -> None:
    settings.ILERT_OAUTH_CONNECTED_URL = 7
    assert [named for _, named in found(check_settings(None))] == ["ILERT_OAUTH_CONNECTED_URL"]


def test_a_site_without_urls_is_not_asked_where_users_land(settings: Any) -> None:
    del settings.ROOT_URLCONF
    assert check_settings(None) == []


def test_apps_that_are_not_installed_are_named(settings: Any) -> None:
    text = "only this app's own pages can tell users whether connecting has worked."
    expected = {
        "auth": ("E005", "django_ilert_oauth needs django.contrib.auth."),
        "sessions": ("E005", "django_ilert_oauth needs django.contrib.sessions."),
        "messages": ("W008", f"django.contrib.messages is not installed: {text}"),
    }
    all_apps = settings.INSTALLED_APPS
    for name, (code, told) in expected.items():
        app = f"django.contrib.{name}"
        settings.INSTALLED_APPS = [installed for installed in all_apps if installed != app]
        [message] = check_settings(None)
        assert (message.id, message.msg) == (f"ilert_oauth.{code}", told)
        assert app in (message.hint or "")


def test_e006_names_a_database_that_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "vendor", "oracle")
    [error] = check_settings(None)
    assert (error.id, "oracle" in error.msg) == ("ilert_oauth.E006", True)


def test_w004_says_when_times_without_a_zone_are_wrong(settings: Any) -> None:
    settings.USE_TZ = False
    [warning] = check_settings(None)
    assert (warning.id, "USE_TZ" in warning.msg) == ("ilert_oauth.W004", True)


@pytest.mark.parametrize(
    ("given", "meant"), [("profile sources:w", "source:w"), (("*:w",), "wildcard:w")]
)
def test_w005_names_the_scope_that_was_probably_meant(
    settings: Any, given: object, meant: str
) -> None:
    settings.ILERT_OAUTH_SCOPES = given
    [warning] = check_settings(None)
    assert found([warning]) == [("ilert_oauth.W005", "ILERT_OAUTH_SCOPES")]
    assert repr(meant) in str(warning.hint)


def test_w005_explains_a_scope_that_is_malformed_besides(settings: Any) -> None:
    settings.ILERT_OAUTH_SCOPES = ["Source W"]
    malformed, warning = check_settings(None)
    assert (malformed.id, warning.id) == ("ilert_oauth.E002", "ilert_oauth.W005")
    assert "'source:w'" in str(warning.hint)


def test_w005_says_nothing_of_known_scopes_and_of_such_as_ilert_may_add(settings: Any) -> None:
    settings.ILERT_OAUTH_SCOPES = ["offline_access", "source:w", "wildcard:d", "event-flow", "x:y"]
    assert check_settings(None) == []


def test_w001_names_plain_http_addresses(deployed: Any) -> None:
    assert check_deployment(None) == []
    names = ["ILERT_OAUTH_APP_URL", "ILERT_OAUTH_API_URL", "ILERT_OAUTH_TENANT_URL"]
    names += ["ILERT_OAUTH_REDIRECT_URI"]
    for name in names:
        setattr(deployed, name, "http://{tenant}.example")
    expected = [("ilert_oauth.W001", name) for name in names]
    assert sorted(found(check_deployment(None))) == sorted(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECURE_PROXY_SSL_HEADER", ("HTTP_X_FORWARDED_PROTO", "https")),
        ("USE_X_FORWARDED_HOST", True),
    ],
)
def test_w002_wants_the_redirect_uri_behind_a_proxy(
    deployed: Any, name: str, value: object
) -> None:
    deployed.ILERT_OAUTH_REDIRECT_URI = None
    assert check_deployment(None) == []
    setattr(deployed, name, value)
    assert found(check_deployment(None)) == [("ilert_oauth.W002", "ILERT_OAUTH_REDIRECT_URI")]


def test_w003_warns_of_strict_cookies(deployed: Any) -> None:
    deployed.SESSION_COOKIE_SAMESITE = "Strict"
    assert found(check_deployment(None)) == [("ilert_oauth.W003", "SESSION_COOKIE_SAMESITE")]


def test_only_check_deploy_warns_of_what_development_may_do(deployed: Any) -> None:
    deployed.ILERT_OAUTH_API_URL = "http://127.0.0.1:8001"
    for with_deploy in (False, True):
        ids = {message.id for message in run_checks(include_deployment_checks=with_deploy)}
        assert ("ilert_oauth.W001" in ids) is with_deploy


# The real commands, on a site that has the app installed and nothing set


@pytest.mark.parametrize(
    ("site", "command"),
    [
        (WITH_URLS, "makemigrations --check --dry-run"),
        (PLAIN_SITE, "collectstatic --dry-run --no-input"),
    ],
    ids=["makemigrations with URLs", "collectstatic"],
)
def test_an_image_is_built_before_anything_is_set(tmp_path: Path, site: str, command: str) -> None:
    result = run(tmp_path, site, command)
    assert (result.returncode, result.stderr) == (0, "")


def test_check_fails_in_clear_lines_where_nothing_is_set(tmp_path: Path) -> None:
    result = run(tmp_path, WITH_URLS, "check")
    assert result.returncode == 1
    for name in ("CLIENT_ID", "CLIENT_SECRET", "ENCRYPTION_KEYS"):
        line = f"?: (ilert_oauth.E001) ILERT_OAUTH_{name} is not set.\n\tHINT: "
        assert line in result.stderr
    assert "Traceback" not in result.stderr


def test_migrate_runs_where_nothing_is_set_and_says_so(tmp_path: Path) -> None:
    result = run(tmp_path, WITH_URLS, "migrate --verbosity=0")
    assert result.returncode == 0
    assert "(ilert_oauth.W007) ILERT_OAUTH_CLIENT_ID is not set." in result.stderr


def run(tmp_path: Path, site: str, command: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "plain_site.py").write_text(site)
    (tmp_path / "plain_urls.py").write_text(PLAIN_URLS)
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "plain_site", "PYTHONPATH": path}
    arguments = [sys.executable, "-W", "error", "-m", "django", *command.split(" ")]
    return subprocess.run(
        arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30
    )


STAGING = {"CLIENT_ID": "staging-client", "CLIENT_SECRET": "x", "API_URL": "http://api.example"}


def test_w001_names_a_plain_http_address_of_a_further_client(deployed: Any) -> None:
    deployed.ILERT_OAUTH_CLIENTS = {"staging": STAGING}
    name = "ILERT_OAUTH_CLIENTS.staging.API_URL"
    assert found(check_deployment(None)) == [("ilert_oauth.W001", name)]


def test_w001_leaves_malformed_clients_to_e002(deployed: Any) -> None:
    deployed.ILERT_OAUTH_CLIENTS = "staging"
    assert check_deployment(None) == []


@pytest.fixture
def of_a_client_that_is_gone(user: User, settings: Any) -> None:
    settings.ILERT_OAUTH_CLIENTS = {"staging": STAGING}
    for username in ("ada", "grace"):
        connected_account(user, client="staging", username=username)
    connected_account(user, client="staging", username="eve", status="disconnected")
    connected_account(user)
    settings.ILERT_OAUTH_CLIENTS = {}


@pytest.mark.usefixtures("of_a_client_that_is_gone")
def test_w006_counts_the_accounts_of_a_client_that_is_not_configured(settings: Any) -> None:
    messages = [m for m in run_checks(databases=["default"]) if m.id == "ilert_oauth.W006"]
    assert found(messages) == [("ilert_oauth.W006", "2")]
    assert "staging-client of http://api.example" in messages[0].msg
    settings.ILERT_OAUTH_CLIENTS = {"staging": STAGING}
    assert check_clients(None, databases=["default"]) == []


@pytest.mark.usefixtures("of_a_client_that_is_gone")
def test_w006_needs_the_database_of_the_accounts_and_leaves_malformed_clients_to_e002(
    settings: Any,
) -> None:
    for databases in (None, [], ["other"]):
        assert check_clients(None, databases=databases) == []
    settings.ILERT_OAUTH_CLIENTS = "staging"
    assert check_clients(None, databases=["default"]) == []


@pytest.mark.django_db
def test_w006_waits_for_the_first_migration() -> None:
    def fail(*args: Any) -> None:
        raise OperationalError("no such table")

    with connection.execute_wrapper(fail):
        assert check_clients(None, databases=["default"]) == []
