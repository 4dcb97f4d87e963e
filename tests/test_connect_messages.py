"""What a user is told who comes back from ilert with an account."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.test import Client

from django_ilert_oauth.internal import signed_scopes
from django_ilert_oauth.models import ConnectedAccount, Status
from ilert_standin.browser import authorize
from tests.conftest import AccountFactory
from tests.support.connect_steps import CONNECT, scopes_asked_at_ilert
from tests.support.html_page import Page

Walk = Callable[..., Any]


def landing(browser: Client, response: Any) -> Page:
    return Page(browser.get(response["Location"]).content.decode())


def told(page: Page, level: str) -> str:
    return page.one("p", f"ilert-{level}").text


def link_in(page: Page, text: str) -> str:
    [link] = [a for a in page.all("a") if a.text == text]
    return link.attributes["href"]


def test_more_access_is_named(browser: Client, connect: Walk, account: ConnectedAccount) -> None:
    signed = signed_scopes.sign(account.user, "alert:w")
    page = landing(browser, connect(account=account.pk, scopes=signed))
    assert told(page, "success") == "grace @ acme is connected. New: See, create and edit alerts."


def test_the_same_access_is_no_news(
    browser: Client, connect: Walk, account: ConnectedAccount
) -> None:
    page = landing(browser, connect(account=account.pk))
    assert told(page, "success") == "grace @ acme is connected."


def test_what_is_connected_after_a_disconnect_has_nothing_to_compare(
    browser: Client, connect: Walk, make_account: AccountFactory
) -> None:
    account = make_account(status=Status.DISCONNECTED)
    page = landing(browser, connect(account=account.pk))
    assert told(page, "success") == "grace @ acme is connected."


def test_connecting_the_same_person_again_loses_nothing(
    browser: Client, connect: Walk, make_account: AccountFactory
) -> None:
    account = make_account(granted_scope="profile source:w alert:w schedule")
    page = landing(browser, connect())
    account.refresh_from_db()
    assert account.has_scopes("source:w alert:w schedule")
    assert told(page, "success") == "grace @ acme is connected."


def test_what_was_lost_is_named_with_a_button_that_asks_again(
    browser: Client, make_account: AccountFactory
) -> None:
    account = make_account(granted_scope="profile source:w")
    url = browser.post(CONNECT)["Location"].replace("+source%3Aw", "").replace("%20source%3Aw", "")
    page = landing(browser, browser.get(authorize(url)))
    assert told(page, "warning").startswith(
        "grace @ acme is connected. ilert no longer allows this site to: "
        "See, create and edit alert sources."
    )
    again = browser.get(link_in(page, "Ask again"))
    assert scopes_asked_at_ilert(browser, again) == {"profile", "source:w"}
    account.refresh_from_db()
    assert not account.has_scopes("source:w")


def test_who_logs_in_as_somebody_else_is_told_that_the_first_account_still_needs_it(
    browser: Client, connect: Walk, make_account: AccountFactory
) -> None:
    first = make_account(status=Status.RECONNECT_REQUIRED, username="heidi")
    page = landing(browser, connect(account=first.pk, username="grace"))
    assert told(page, "warning").startswith(
        "grace @ acme is connected. heidi @ acme has not been reconnected: to do that, "
        "log in at ilert as heidi."
    )
    assert f"account={first.pk}" in link_in(page, "Reconnect")


def test_a_name_of_ilert_is_no_markup_in_a_message(
    browser: Client, connect: Walk, make_account: AccountFactory
) -> None:
    first = make_account(status=Status.RECONNECT_REQUIRED, username="<b>heidi</b>")
    response = connect(account=first.pk)
    assert b"<b>heidi" not in browser.get(response["Location"]).content
