"""The pages that README shows: what people of the example site have done, some time ago."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db.models import DateTimeField, F

from django_ilert_oauth.models import ConnectedAccount
from tests.browser.example import Example, connect, revoke_unnoticed, session_of, shared_example
from tests.browser.window import Window


@pytest.fixture
def example(tmp_path: Path, django_db_blocker: Any) -> Iterator[Example]:
    with shared_example(tmp_path, django_db_blocker) as example:
        yield example


def user_called(username: str) -> User:
    return User.objects.get_or_create(username=username)[0]


def let_time_pass(account: ConnectedAccount, **time: float) -> None:
    fields = [field.name for field in account._meta.fields if isinstance(field, DateTimeField)]
    earlier = {name: F(name) - timedelta(**time) for name in fields}
    ConnectedAccount.objects.filter(pk=account.pk).update(**earlier)


def use(window: Window, account: ConnectedAccount) -> None:
    """Refreshes it, or finds out that it was revoked."""
    window.log_in(session_of(account.user))
    window.open(f"/accounts/{account.pk}/")
    let_time_pass(account, minutes=12)


def accounts_of_demo(window: Window, example: Example) -> None:
    """One in use, the other revoked at ilert."""
    demo = user_called("demo")
    healthy, revoked = connect(example, demo), connect(example, demo, tenant="globex")
    let_time_pass(healthy, days=40)
    let_time_pass(revoked, days=32)
    revoke_unnoticed(example, revoked)
    use(window, healthy)
    use(window, revoked)


def test_readme_shows_the_accounts_page(window: Window, example: Example) -> None:
    accounts_of_demo(window, example)
    window.resize(760, 400)
    window.open("/ilert/")
    assert "Reconnect" in window.card("grace @ globex")
    window.take_picture("accounts")


def test_readme_shows_the_connect_page(window: Window, example: Example) -> None:
    demo = user_called("demo")
    connect(example, demo)
    window.log_in(session_of(demo))
    window.resize(760, 400)
    window.open("/alert-sources/new/")
    assert "See, create and edit alert sources new" in window.text
    window.take_picture("connect")


def test_readme_shows_the_list_of_the_admin(window: Window, example: Example) -> None:
    accounts_of_demo(window, example)
    ada, linus = user_called("ada"), user_called("linus")
    for account, days in [
        (connect(example, linus, tenant="globex", username="linus"), 353),
        (connect(example, ada, username="ada"), 97),
        (connect(example, ada, tenant="globex"), 20),
    ]:
        let_time_pass(account, days=days)
        use(window, account)
    window.open("/ilert/")
    window.press("Disconnect", within="grace @ globex")
    window.press("Disconnect")
    window.log_in(session_of(user_called("admin")))
    window.resize(1280, 500)
    window.open("/admin/ilert_oauth/connectedaccount/")
    window.run("document.querySelector('#toggle-nav-sidebar').click()")
    assert "linus @ globex" in window.text
    window.take_picture("admin")
