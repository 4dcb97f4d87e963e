"""Users and their pages, as they meet them in a browser."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User

from django_ilert_oauth.models import Status
from tests.browser.example import (
    Example,
    accounts_in_each_state,
    connect,
    make_up_account,
    revoke_unnoticed,
)
from tests.browser.window import NARROW, Window

GRACE = "grace @ acme"
ACCOUNTS, CONNECT = "/ilert/", "/ilert/connect/"
GUARDED = "/alert-sources/new/"


def allow_as(window: Window, name: str) -> None:
    window.press("Go to ilert")
    window.press(name)
    window.press("Allow")


def test_a_user_connects_an_account(window: Window, person: User) -> None:
    window.open(ACCOUNTS)
    window.press("Connect an ilert account")
    window.press("Go to ilert")
    assert window.is_at_ilert
    window.press("Grace Demo (grace)")
    window.press("Allow")

    assert window.path == ACCOUNTS
    assert window.messages == [f"{GRACE} is connected."]
    assert "See alert sources" in window.card(GRACE)


def test_a_user_who_denies_is_back_where_the_user_began(window: Window, person: User) -> None:
    window.open(CONNECT)
    window.press("Go to ilert")
    window.press("Grace Demo (grace)")
    window.press("Deny")

    assert window.path == CONNECT
    [message] = window.messages
    assert message.startswith("Access was declined at ilert, so nothing was connected.")
    assert not person.ilert_accounts.exists()


def test_two_tabs_each_finish_where_they_were_to_lead(window: Window, person: User) -> None:
    window.open(f"{CONNECT}?next=/%3Ffirst")
    window.press("Go to ilert")
    first = window.tab
    second = window.new_tab()
    window.open(f"{CONNECT}?next=/%3Fsecond")
    window.press("Go to ilert")
    window.press("Linus Demo (linus)")
    window.switch_to(first)
    window.press("Grace Demo (grace)")
    window.press("Allow")
    assert window.path == "/?first"
    assert window.messages == [f"{GRACE} is connected."]

    window.switch_to(second)
    window.press("Use another account")
    window.press("Linus Demo (linus)")
    window.press("Allow")
    assert window.path == "/?second"
    assert window.messages == ["linus @ globex is connected."]


def test_a_user_who_revoked_at_ilert_reconnects(
    window: Window, person: User, example: Example
) -> None:
    account = connect(example, person)
    revoke_unnoticed(example, account)
    window.open(f"/accounts/{account.pk}/")
    assert window.path == ACCOUNTS
    assert "needs reconnecting: access was revoked at ilert" in window.card(GRACE).lower()

    window.press("Reconnect", within=GRACE)
    window.press("Grace Demo (grace)")
    window.press("Allow")
    assert window.messages == [f"{GRACE} is connected."]
    assert person.ilert_accounts.get().status == Status.CONNECTED
    window.open(f"/accounts/{account.pk}/")
    assert "Grace Demo (grace, ADMIN)" in window.text


def test_a_user_disconnects_an_account(window: Window, person: User, example: Example) -> None:
    connect(example, person)
    window.open(ACCOUNTS)
    window.press("Disconnect", within=GRACE)
    assert "up to an hour" in window.text

    window.press("Disconnect")
    assert window.path == ACCOUNTS
    assert window.messages == [f"{GRACE} is disconnected."]
    assert person.ilert_accounts.get().status == Status.DISCONNECTED


def test_everything_works_without_javascript(window: Window, person: User) -> None:
    window.run_no_script()
    window.open(ACCOUNTS)
    window.press("Connect an ilert account")
    allow_as(window, "Grace Demo (grace)")
    assert window.messages == [f"{GRACE} is connected."]

    window.press("Disconnect", within=GRACE)
    window.press("Disconnect")
    assert window.messages == [f"{GRACE} is disconnected."]


def test_everything_works_by_keyboard(window: Window, person: User) -> None:
    window.open(ACCOUNTS)
    for name in ["Connect an ilert account", "Go to ilert", "Grace Demo (grace)", "Allow"]:
        window.tab_to(name)
        window.enter()
    assert window.messages == [f"{GRACE} is connected."]

    for _ in range(2):
        window.tab_to("Disconnect")
        window.enter()
    assert window.messages == [f"{GRACE} is disconnected."]


def test_a_user_who_comes_back_too_late_is_told(window: Window, person: User) -> None:
    window.open("/ilert/callback/?code=unknown&state=unknown")
    assert window.path == ACCOUNTS
    [message] = window.messages
    assert message.startswith("This request to connect has ended")


def test_a_field_that_is_wrong_looks_wrong(window: Window, person: User) -> None:
    window.open(CONNECT)
    window.fill_in(tenant="no host")
    window.press("Go to ilert")
    assert window.style_of("#id_tenant", "border-top-width") == "2px"
    red = window.style_of(".errorlist", "color")
    assert (
        window.style_of("#id_tenant", "border-top-color") == red != window.style_of("h1", "color")
    )


def test_accounts_to_choose_from_are_rows_and_the_current_one_is_marked(
    window: Window, person: User, example: Example
) -> None:
    for name in ("grace", "ada"):
        make_up_account(example, person, username=name)
    window.open("/ilert/choose/")
    assert window.box_of(".ilert-choice")["width"] == window.box_of(".ilert-card form")["width"]
    window.press("ada @ acme Grace Demo")
    window.open("/ilert/choose/")
    border = {
        name: window.style_of(f"button[value='{pk}']", "border-top-width")
        for name, pk in person.ilert_accounts.values_list("username", "pk")
    }
    assert border == {"grace": "1px", "ada": "2px"}
    assert window.control("ada @ acme Grace Demo chosen now")


PAGES = ["home", "accounts", "nothing", "connect", "more", "less", "choose", "disconnect", "create"]


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest, window: Window, example: Example, person: User) -> str:
    """The path that leads to each page of the app and of the example in turn."""
    match request.param:
        case "home":
            return "/"
        case "nothing":
            return ACCOUNTS
        case "connect":
            return CONNECT
        case "more":
            make_up_account(example, person, granted_scope="profile")
            return GUARDED
        case "less":
            window.allowed_errors.append("403 (Forbidden)")
            asked = "profile source:w"
            make_up_account(example, person, granted_scope="profile", requested_scope=asked)
            return GUARDED
        case "choose":
            accounts_in_each_state(example, person)
            return GUARDED
        case "create":
            connect(example, person)
            person.ilert_accounts.update(granted_scope="profile source:w")
            return GUARDED
        case "disconnect":
            return f"/ilert/{make_up_account(example, person).pk}/disconnect/"
    accounts_in_each_state(example, person)
    return ACCOUNTS


def test_tab_reaches_each_control_in_turn_and_shows_where_it_is(window: Window, page: str) -> None:
    window.open(page)
    reached, unseen = window.tab_order()
    assert reached == window.controls()
    assert unseen == []


@pytest.mark.parametrize("language", ["en", "de"])
def test_a_narrow_page_does_not_scroll_sideways(window: Window, page: str, language: str) -> None:
    window.prefer(language)
    window.be_narrow()
    window.open(page)
    assert window.width_of_page == NARROW


def test_a_page_follows_into_the_dark(window: Window, page: str) -> None:
    window.open(page)
    light = window.brightness
    window.be_dark()
    window.open(page)
    assert light > 0.8
    assert window.brightness < 0.2


def test_a_narrow_dark_page_is_accessible(window: Window, page: str) -> None:
    """What ``open`` looks for; the other three kinds of window are those of the tests above."""
    window.be_dark()
    window.be_narrow()
    window.open(page)


def test_a_page_follows_the_browser_into_german(window: Window, page: str) -> None:
    window.open(page)
    english = window.language, window.heading
    window.prefer("de-DE,de;q=0.9")
    window.open(page)
    assert english[0] == "en"
    assert window.language == "de"
    assert window.heading != english[1]
