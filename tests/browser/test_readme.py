"""The pages that README shows, on a site with nothing but what is to be seen there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from django_ilert_oauth.models import Reason, Status
from tests.browser.example import Example, make_up_account, session_of, shared_example
from tests.browser.window import Window


def days_ago(days: float) -> datetime:
    return timezone.now() - timedelta(days)


REVOKED = {
    "status": Status.RECONNECT_REQUIRED,
    "reason": Reason.REVOKED_AT_ILERT,
    "access_token_expires_at": days_ago(0.1),
}
DISCONNECTED = {
    "status": Status.DISCONNECTED,
    "reason": Reason.USER,
    "access_token": "",
    "refresh_token": "",
    "access_token_expires_at": None,
    "refresh_token_expires_at": None,
}
UNREACHABLE = {"last_error": "timeout", "last_error_at": days_ago(0.02)}
ENDING_SOON = {"refresh_token_expires_at": days_ago(-12)}


@pytest.fixture
def example(tmp_path: Path, django_db_blocker: Any) -> Iterator[Example]:
    with shared_example(tmp_path, django_db_blocker) as example:
        yield example


def user_called(username: str) -> User:
    return User.objects.get_or_create(username=username)[0]


def test_readme_shows_the_accounts_page(window: Window, example: Example) -> None:
    demo = user_called("demo")
    make_up_account(example, demo)
    make_up_account(example, demo, tenant_id="globex", display_name="Grace Sample", **REVOKED)
    window.log_in(session_of(demo))
    window.resize(760, 400)
    window.open("/ilert/")
    assert "Reconnect" in window.card("grace @ globex")
    window.take_picture("accounts")


def test_readme_shows_the_connect_page(window: Window, example: Example) -> None:
    demo = user_called("demo")
    make_up_account(example, demo, granted_scope="profile source")
    window.log_in(session_of(demo))
    window.resize(760, 400)
    window.open("/alert-sources/new/")
    assert "See, create and edit alert sources new" in window.text
    window.take_picture("connect")


def test_readme_shows_the_list_of_the_admin(window: Window, example: Example) -> None:
    demo, ada, linus = map(user_called, ("demo", "ada", "linus"))
    make_up_account(example, demo, connected_at=days_ago(200))
    make_up_account(example, demo, tenant_id="globex", connected_at=days_ago(150), **REVOKED)
    make_up_account(example, ada, username="ada", connected_at=days_ago(97), **UNREACHABLE)
    make_up_account(example, linus, tenant_id="globex", username="linus", **ENDING_SOON)
    make_up_account(example, linus, username="linus", **DISCONNECTED)
    window.log_in(session_of(user_called("admin")))
    window.resize(1400, 500)
    window.open("/admin/ilert_oauth/connectedaccount/")
    window.run("document.querySelector('#toggle-nav-sidebar').click()")
    assert "linus @ globex" in window.text
    window.take_picture("admin")
