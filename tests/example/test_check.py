"""The checks on the example project, in a process of its own, as one would deploy it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MANAGE = Path(__file__).parents[2] / "example_project" / "manage.py"
PRODUCTION = {
    "DJANGO_SETTINGS_MODULE": "example_site.settings",
    "DATABASE_URL": "sqlite://:memory:",
    "SECRET_KEY": "as long as Django wants it, and of more characters than five: 0123456789",
    "HTTPS_ONLY": "on",
    "ALLOWED_HOSTS": "site.example",
    "ILERT_CLIENT_ID": "the-client",
    "ILERT_CLIENT_SECRET": "the-client-secret",
    "ILERT_OAUTH_ENCRYPTION_KEYS": "h3SWrXqcbGMlQIdYjnM9DKOXjcdnYWbu9SLrW_4XhNQ=",
    "ILERT_OAUTH_REDIRECT_URI": "https://site.example/ilert/callback/",
}


def check_deploy(**changes: str) -> subprocess.CompletedProcess[str]:
    command = [str(MANAGE), "check", "--deploy", "--fail-level", "WARNING"]
    return subprocess.run(
        [sys.executable, "-W", "error", *command],
        env=os.environ | PRODUCTION | changes,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_check_deploy_has_nothing_to_say_about_the_example_in_production() -> None:
    result = check_deploy()
    assert (result.returncode, result.stderr) == (0, "")


#: What is set otherwise, and the line that says so.
MALFORMED = {
    "ILERT_CLIENT_SECRET": ("", "ilert_oauth.E001) ILERT_OAUTH_CLIENT_SECRET is not set."),
    "ILERT_OAUTH_ENCRYPTION_KEYS": ("no-key", "ilert_oauth.E002) ILERT_OAUTH_ENCRYPTION_KEYS must"),
    "ILERT_OAUTH_API_URL": ("api.ilert.com", "ilert_oauth.E002) ILERT_OAUTH_API_URL must be"),
}
MISSING = {
    "SECRET_KEY": ("", "security.W009)"),
    "ILERT_OAUTH_ENCRYPTION_KEYS": ("", "ilert_oauth.E001) ILERT_OAUTH_ENCRYPTION_KEYS is not set"),
    "ILERT_OAUTH_API_URL": ("http://x", "ilert_oauth.W001) ILERT_OAUTH_API_URL is a plain"),
    "ILERT_OAUTH_REDIRECT_URI": ("", "ilert_oauth.W002) ILERT_OAUTH_REDIRECT_URI is not set"),
}


@pytest.mark.parametrize("changes", [MALFORMED, MISSING], ids=["malformed", "missing"])
def test_what_is_misconfigured_is_said_in_one_clear_line_each(
    changes: dict[str, tuple[str, str]],
) -> None:
    result = check_deploy(**{name: value for name, (value, _line) in changes.items()})
    assert result.returncode == 1
    lines = [line for _value, line in changes.values()]
    assert [line for line in lines if result.stderr.count(f"?: ({line}") != 1] == []
    assert "Traceback" not in result.stderr
    assert "no-key" not in result.stderr
