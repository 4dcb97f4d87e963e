"""Pages behind ``ilert_account_required``, as the example site has one."""

from __future__ import annotations

from django.contrib.auth.models import User

from django_ilert_oauth.models import ConnectedAccount
from tests.browser.example import Example, connect, make_up_account
from tests.browser.window import Window

GUARDED = "/alert-sources/new/"
WRITE = "profile source:w"


def test_a_stranger_logs_in_connects_and_arrives(window: Window, example: Example) -> None:
    window.open(GUARDED)
    window.fill_in(username="demo", password=example.passwords["demo"])
    window.enter()
    assert window.heading == "Connect an ilert account"
    window.press("Go to ilert")
    window.press("Grace Demo (grace)")
    window.press("Allow")
    assert window.path == GUARDED


def test_a_user_is_asked_for_more_only_where_more_is_needed(
    window: Window, person: User, example: Example
) -> None:
    account = connect(example, person)
    assert account.granted_scope == "profile source"
    window.open(f"/accounts/{account.pk}/")
    window.press("Create an alert source")
    assert window.path.startswith("/ilert/connect/")
    assert "See, create and edit alert sources new" in window.text

    window.press("Go to ilert")
    window.press("Grace Demo (grace)")
    window.press("Allow")
    assert window.path == GUARDED
    window.fill_in(name="Made in a browser")
    window.press("Create an alert source")
    assert window.messages == ["The alert source Made in a browser was created."]
    account.refresh_from_db()
    assert account.has_scopes("source:w")


def test_a_user_who_granted_less_is_told_and_not_sent_round(
    window: Window, person: User, example: Example
) -> None:
    make_up_account(example, person, granted_scope="profile source", requested_scope=WRITE)
    window.allowed_errors.append("403 (Forbidden)")
    window.open(GUARDED)
    assert window.path == GUARDED
    assert window.heading == "More access is needed"

    window.press("Ask again")
    assert window.path.startswith("/ilert/connect/")


def test_a_user_with_two_accounts_chooses_once(
    window: Window, person: User, example: Example
) -> None:
    connect(example, person, username="grace")
    connect(example, person, username="ada")
    ConnectedAccount.objects.filter(user=person).update(granted_scope=WRITE)
    window.open(GUARDED)
    assert window.heading == "Choose an ilert account"
    window.press("ada @ acme Ada Demo")
    assert window.path == GUARDED
    assert "ada @ acme" in window.text

    window.open(GUARDED)
    assert window.path == GUARDED


def test_a_user_who_thinks_better_of_it_gets_back(window: Window, person: User) -> None:
    window.open("/?before")
    window.follow(GUARDED)
    assert window.heading == "Connect an ilert account"
    window.press("Back")
    assert window.path == "/?before"


def test_the_browsers_back_leads_past_the_guarded_page(window: Window, person: User) -> None:
    window.open("/?before")
    window.follow(GUARDED)
    window.go_back()
    assert window.path == "/?before"


def test_who_declined_gets_away_from_the_guarded_page(window: Window, person: User) -> None:
    window.open(GUARDED)
    window.press("Go to ilert")
    window.press("Grace Demo (grace)")
    window.press("Deny")
    window.press("Back")
    assert window.path == "/ilert/"
