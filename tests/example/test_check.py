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


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"ILERT_CLIENT_SECRET": ""}, "E001) ILERT_OAUTH_CLIENT_SECRET is not set."),
        ({"ILERT_OAUTH_ENCRYPTION_KEYS": ""}, "E001) ILERT_OAUTH_ENCRYPTION_KEYS is not set."),
        ({"ILERT_OAUTH_ENCRYPTION_KEYS": "no-key"}, "E002) ILERT_OAUTH_ENCRYPTION_KEYS must be"),
        ({"ILERT_OAUTH_API_URL": "api.ilert.com"}, "E002) ILERT_OAUTH_API_URL must be"),
        ({"ILERT_OAUTH_API_URL": "http://ilert.example"}, "W001) ILERT_OAUTH_API_URL is a plain"),
        ({"ILERT_OAUTH_REDIRECT_URI": ""}, "W002) ILERT_OAUTH_REDIRECT_URI is not set"),
    ],
    ids=str,
)
def test_what_is_misconfigured_is_said_in_one_clear_line(
    changes: dict[str, str], line: str
) -> None:
    result = check_deploy(**changes)
    assert result.returncode == 1
    assert result.stderr.count(f"?: (ilert_oauth.{line}") == 1
    assert "Traceback" not in result.stderr
    assert "no-key" not in result.stderr


def test_a_missing_secret_key_is_no_traceback_either() -> None:
    result = check_deploy(SECRET_KEY="")
    assert (result.returncode, "Traceback" in result.stderr) == (1, False)
    assert "security.W009" in result.stderr
