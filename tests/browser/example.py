"""The example site and the stand-in as users start them, and people in the site's database."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone

from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from ilert_standin import Options
from ilert_standin import browser as ilert_browser
from site_browser import SiteBrowser
from tests.example.welcome import welcome_of

RUN = Path(__file__).parents[2] / "example_project" / "run.py"
ENDING_SECONDS = 10
LONG_NAME = "somebody.whose.address.is.longer.than.most@a-long-name-for-a-company.example"


@dataclass(frozen=True)
class Example:
    site_url: str
    ilert_url: str
    passwords: dict[str, str]


@contextmanager
def shared_example(folder: Path, django_db_blocker: Any) -> Iterator[Example]:
    """Its database is this process's, too, until it ends."""
    database = _database(folder / "db.sqlite3")
    with running_example(folder) as example, django_db_blocker.unblock(), database:
        yield example


@contextmanager
def _database(path: Path) -> Iterator[None]:
    before = connection.settings_dict["NAME"]
    connection.close()
    connection.settings_dict["NAME"] = str(path)
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["NAME"] = before


@contextmanager
def running_example(folder: Path) -> Iterator[Example]:
    """On free ports, with its database in the folder, whatever else is configured."""
    options = ["--port", "0", "--ilert-port", "0", "--folder", str(folder)]
    with (
        open(folder / "log", "w") as log,
        subprocess.Popen(
            [sys.executable, RUN, *options],
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            yield _welcomed(process)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(ENDING_SECONDS)


def _environment(folder: Path) -> dict[str, str]:
    """Not unset but empty, so that no ``.env`` is asked."""
    return os.environ | {
        "ILERT_CLIENT_ID": "",
        "ILERT_CLIENT_SECRET": "",
        "DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}",
        "SECRET_KEY": settings.SECRET_KEY,
        "ILERT_OAUTH_ENCRYPTION_KEYS": ",".join(settings.ILERT_OAUTH_ENCRYPTION_KEYS),
    }


def _welcomed(process: subprocess.Popen[str]) -> Example:
    said = welcome_of(process)
    [site_url] = re.findall(r"example site is at (\S+)/ ", said)
    [ilert_url] = re.findall(r"stand-in for ilert at (\S+)/,", said)
    return Example(site_url, ilert_url, dict(re.findall(r"Log in as (\w+) with (\S+)", said)))


def new_user(**columns: Any) -> User:
    return User.objects.create_user(f"user-{uuid4().hex[:8]}", **columns)


def session_of(user: User) -> str:
    """The value of the cookie that a login would have set."""
    client = Client()
    client.force_login(user)
    return client.cookies[settings.SESSION_COOKIE_NAME].value


def connect(
    example: Example, user: User, *, tenant: str = "acme", username: str = "grace"
) -> ConnectedAccount:
    """Over HTTP, since only the stand-in can issue what it accepts."""
    site = SiteBrowser(example.site_url)
    site.session.cookies.set(settings.SESSION_COOKIE_NAME, session_of(user))
    authorize_url = site.leave(site.open("/ilert/connect/"), "/ilert/connect/")
    site.open(
        ilert_browser.authorize(
            authorize_url, tenant=tenant, username=username, session=site.session
        )
    )
    return ConnectedAccount.objects.get(user=user, tenant_id=tenant, username=username)


def revoke_unnoticed(example: Example, account: ConnectedAccount) -> None:
    """At ilert, by the user. The site finds out when it next needs a token."""
    ilert_browser.revoke(example.ilert_url, tenant=account.tenant_id, username=account.username)
    an_hour_ago = timezone.now() - timedelta(hours=1)
    ConnectedAccount.objects.filter(pk=account.pk).update(access_token_expires_at=an_hour_ago)


def accounts_in_each_state(example: Example, user: User) -> list[ConnectedAccount]:
    """Made up: ilert knows none of their tokens."""
    revoked = {"status": Status.RECONNECT_REQUIRED, "reason": Reason.REVOKED_AT_ILERT}
    expired = {"status": Status.RECONNECT_REQUIRED, "reason": Reason.EXPIRED}
    ended = {"status": Status.DISCONNECTED, "access_token": "", "refresh_token": ""}
    states: dict[str, dict[str, Any]] = {
        "acme": {},
        "a-tenant-with-a-name-that-no-phone-has-room-for": {"username": LONG_NAME},
        "acme-lab": {"last_error": "timeout", "last_error_at": timezone.now()},
        "globex": revoked,
        "globex-lab": expired,
        "north": {"refresh_token_ciphertext": "no key opens this"},
        "south": ended | {"reason": Reason.USER},
        "west": ended | {"reason": Reason.ADMIN},
    }
    return [
        make_up_account(example, user, tenant_id=tenant, **columns)
        for tenant, columns in states.items()
    ]


def make_up_account(example: Example, user: User, **columns: Any) -> ConnectedAccount:
    """Connected 40 days ago, refreshed lately, and unknown to ilert."""
    now = timezone.now()
    columns = {
        "user": user,
        "api_url": example.ilert_url,
        "client_id": Options().client_id,
        "tenant_id": "acme",
        "username": "grace",
        "display_name": "Grace Demo",
        "granted_scope": "profile source:w",
        "access_token": "made-up",
        "refresh_token": "made-up",
        "access_token_expires_at": now + timedelta(minutes=48),
        "refresh_token_expires_at": now + timedelta(days=325),
        "connected_at": now - timedelta(days=40),
        "refreshed_at": now - timedelta(minutes=12),
        "status_changed_at": now - timedelta(hours=3),
        **columns,
    }
    ciphertext = columns.pop("refresh_token_ciphertext", "")
    account = ConnectedAccount(**columns)
    account.refresh_token_ciphertext = ciphertext or account.refresh_token_ciphertext
    account.save()
    return account
