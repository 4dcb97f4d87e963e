"""Administrators and the accounts of others."""

from __future__ import annotations

from collections.abc import Callable

import django
import pytest
from django.contrib.auth.models import User

from django_ilert_oauth.models import ConnectedAccount, PendingRevocation, Reason, Status
from tests.browser.example import Example, accounts_in_each_state, connect, new_user
from tests.browser.window import Window

ADMIN = "/admin/ilert_oauth/connectedaccount/"
GRACE = "grace @ acme"
GO = "Go" if django.VERSION < (6,) else "Run"


@pytest.fixture
def account(example: Example) -> ConnectedAccount:
    """Of another user, and known to ilert."""
    return connect(example, new_user())


@pytest.fixture
def act(
    window: Window, administrator: User, account: ConnectedAccount
) -> Callable[[str, str], None]:
    """Chooses the account in the list, the action, and says yes."""

    def act(action: str, title: str) -> None:
        window.open(f"{ADMIN}?q={account.user}")
        window.choose("_selected_action", account.pk)
        window.choose("action", action)
        window.press(GO)
        assert GRACE in window.text
        window.press(title)
        account.refresh_from_db()

    return act


def test_an_administrator_refreshes_an_account(
    window: Window, act: Callable[[str, str], None], account: ConnectedAccount
) -> None:
    before = account.access_token
    act("refresh_accounts", "Refresh now")
    assert window.messages == [f"1 account was refreshed. ({GRACE})"]
    assert account.access_token != before


def test_an_administrator_checks_an_account(
    window: Window, act: Callable[[str, str], None], account: ConnectedAccount
) -> None:
    act("check_accounts", "Check with ilert")
    assert window.messages == [f"1 account was checked with ilert. ({GRACE})"]
    assert account.status == Status.CONNECTED


def test_an_administrator_disconnects_an_account(
    window: Window, act: Callable[[str, str], None], account: ConnectedAccount
) -> None:
    act("disconnect_accounts", "Disconnect")
    assert window.messages == [f"1 account was disconnected. ({GRACE})"]
    assert (account.status, account.reason) == (Status.DISCONNECTED, Reason.ADMIN)


def test_an_administrator_thinks_better_of_it(
    window: Window, administrator: User, account: ConnectedAccount
) -> None:
    window.open(f"{ADMIN}{account.pk}/change/")
    window.press("Disconnect")
    window.press("No, take me back")
    assert window.path == f"{ADMIN}{account.pk}/change/"
    account.refresh_from_db()
    assert account.status == Status.CONNECTED


def test_the_picture_of_health_leads_to_the_accounts_it_counts(
    window: Window, administrator: User, example: Example
) -> None:
    accounts_in_each_state(example, new_user())
    count = ConnectedAccount.objects.filter(status=Status.RECONNECT_REQUIRED).count()
    window.open(ADMIN)
    window.press(f"{count} need reconnecting")
    assert window.path == f"{ADMIN}?status__exact=reconnect_required"
    assert "grace @ globex-lab" in window.text


def test_what_failed_last_is_seen_without_scrolling(
    window: Window, administrator: User, example: Example
) -> None:
    owner = new_user()
    accounts_in_each_state(example, owner)
    window.resize(1280)
    window.open(f"{ADMIN}?q={owner}")
    window.take_picture("admin-list")
    assert window.box_of("th.column-last_error")["right"] <= window.box_of(".results")["right"]
    for name in ("account", "user"):
        assert window.style_of(f".field-{name}", "white-space") == "nowrap"


def test_disconnect_looks_like_delete(
    window: Window, administrator: User, account: ConnectedAccount
) -> None:
    window.open(f"{ADMIN}{account.pk}/change/")
    red = window.style_of("a.deletelink", "background-color")
    buttons = ".ilert-disconnect_accounts button", ".ilert-refresh_accounts button"
    colours = [window.style_of(button, "background-color") for button in buttons]
    assert [colour == red for colour in colours] == [True, False]
    window.press("Disconnect")
    assert window.style_of("input.ilert-disconnect_accounts", "background-color") == red


def test_the_bar_of_dates_has_one_caption(
    window: Window, administrator: User, account: ConnectedAccount
) -> None:
    """Newer versions of Django bring their own."""
    window.open(ADMIN)
    captions = ["When the accounts were connected:", "Filter by connected"]
    assert sum(caption in window.text for caption in captions) == 1


@pytest.mark.parametrize("is_dark", [False, True])
def test_each_page_of_the_admin_is_accessible(
    window: Window, administrator: User, example: Example, is_dark: bool
) -> None:
    """What ``open`` looks for."""
    owner = new_user()
    accounts = accounts_in_each_state(example, owner)
    if is_dark:
        window.be_dark()
    window.open(f"{ADMIN}?q={owner}")
    for account in accounts:
        window.open(f"{ADMIN}{account.pk}/change/")
    window.open(f"{ADMIN}{accounts[0].pk}/history/")
    window.open(f"{ADMIN}{accounts[0].pk}/delete/")
    PendingRevocation.objects.create(account_uuid=accounts[0].uuid, api_url=example.ilert_url)
    window.open("/admin/ilert_oauth/pendingrevocation/")
