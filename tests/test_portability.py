from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db.migrations.loader import MigrationLoader
from django.test import Client
from django.utils import timezone

from django_ilert_oauth.models import ConnectedAccount, Status
from ilert_standin import StandIn
from ilert_standin.browser import authorize

ROOT = Path(__file__).parents[1]


@pytest.fixture
def anyone(db: None) -> Any:
    """A member of staff, whatever the model that the site keeps its users in."""
    model = get_user_model()
    name = {model.USERNAME_FIELD: "staff@site.example"}
    return model._default_manager.create(is_staff=True, is_superuser=True, **name)


@pytest.fixture
def site(anyone: Any) -> Client:
    client = Client()
    client.force_login(anyone)
    return client


def connect(site: Client) -> ConnectedAccount:
    leave = site.post("/ilert/connect/")
    site.get(authorize(leave["Location"]))
    return ConnectedAccount.objects.get()


def test_the_site_is_of_the_kind_that_was_asked_for(settings: Any) -> None:
    assert os.environ.get("AUTH_USER_MODEL", "auth.User") == settings.AUTH_USER_MODEL
    assert settings.USE_TZ is (os.environ.get("USE_TZ") != "off")


def test_an_account_is_connected_shown_refreshed_by_the_command_and_disconnected(
    site: Client, anyone: Any, ilert: StandIn, django_capture_on_commit_callbacks: Any
) -> None:
    account = connect(site)
    assert (account.user, str(account), account.status) == (anyone, "grace @ acme", "connected")
    left = (account.access_token_expires_at or timezone.now()) - timezone.now()
    assert timedelta(minutes=59) < left < timedelta(minutes=61)
    listing = "/admin/ilert_oauth/connectedaccount/"
    found = f"{listing}?q=staff@site.example"
    for page in ("/ilert/", listing, found, f"{listing}{account.pk}/change/"):
        assert b"grace @ acme" in site.get(page).content
    ConnectedAccount.objects.update(access_token_expires_at=timezone.now() - timedelta(seconds=1))
    call_command("refresh_ilert_tokens", verbosity=0)
    refreshed = ConnectedAccount.objects.get(pk=account.pk)
    assert refreshed.access_token != account.access_token
    assert refreshed.is_fresh(timedelta(minutes=59))
    with django_capture_on_commit_callbacks(execute=True):
        site.post(f"/ilert/{account.pk}/disconnect/")
    account.refresh_from_db()
    assert (account.status, account.refresh_token_ciphertext) == (Status.DISCONNECTED, "")
    assert ilert.live_refresh_tokens("acme", "grace") == 0


def test_a_deleted_user_takes_the_grant_along(
    site: Client, anyone: Any, ilert: StandIn, django_capture_on_commit_callbacks: Any
) -> None:
    connect(site)
    with django_capture_on_commit_callbacks(execute=True):
        anyone.delete()
    assert not ConnectedAccount.objects.exists()
    assert ilert.live_refresh_tokens("acme", "grace") == 0


@pytest.mark.django_db
def test_the_models_need_no_other_migration_than_the_one_there_is() -> None:
    call_command("makemigrations", "ilert_oauth", check_changes=True, dry_run=True, verbosity=0)
    migrations = MigrationLoader(None).disk_migrations
    assert [name for app, name in migrations if app == "ilert_oauth"] == ["0001_initial"]


def test_all_of_this_holds_on_another_kind_of_site() -> None:
    changes = {"AUTH_USER_MODEL": "uuid_users.UUIDUser", "USE_TZ": "off"}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-k", "not another_kind_of_site", __file__],
        cwd=ROOT,
        env=os.environ | other_database() | changes | {"PYTEST_ADDOPTS": "-q -p no:cacheprovider"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 passed, 1 deselected" in result.stdout


def other_database() -> dict[str, str]:
    """The run within this run takes nobody's test database away, nor another such run's."""
    if not (url := os.environ.get("DATABASE_URL")):
        return {}
    parts = urlsplit(url)
    name = f"{parts.path}_within_{os.environ.get('PYTEST_XDIST_WORKER', 'this')}"
    return {"DATABASE_URL": parts._replace(path=name).geturl()}
