from __future__ import annotations

import html
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from django_ilert_oauth import views
from django_ilert_oauth.internal import signed_scopes
from django_ilert_oauth.models import ConnectedAccount, Status
from django_ilert_oauth.oauth import transport
from ilert_standin import StandIn
from ilert_standin.browser import authorize
from site_browser import Page
from tests.conftest import AccountFactory, spoil
from tests.support.connect_steps import query_of
from tests.support.other_callers import Acting, beside
from tests.test_views import OFF_SITE

CHOOSE, GUARDED = "/ilert/choose/", "/function/it/"


@pytest.fixture(autouse=True)
def guarded(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.support.guarded_site"


@pytest.fixture
def accounts(make_account: AccountFactory) -> dict[str, ConnectedAccount]:
    return {name: make_account(username=name) for name in ("grace", "ada")}


def choose(browser: Client, account: ConnectedAccount, page: Any = None) -> Any:
    """As the button of this account on the page would."""
    page = page or browser.get(browser.get(GUARDED)["Location"])
    assert f'value="{account.pk}"' in page.content.decode()
    form = Page(CHOOSE, page.content.decode()).form(CHOOSE)
    return browser.post(CHOOSE, form.fields | {"account": str(account.pk)})


def test_who_chooses_comes_back_and_works_with_that_account(
    browser: Client, accounts: dict[str, ConnectedAccount]
) -> None:
    for username in ("ada", "grace"):
        page = browser.get(CHOOSE, {"next": f"{GUARDED}?a=1"})
        response = choose(browser, accounts[username], page)
        assert response["Location"] == f"{GUARDED}?a=1"
        again = browser.get(response["Location"])
        assert again.content.decode() == f"it works with {username} @ acme"


def test_the_choice_lasts_as_long_as_the_session(
    browser: Client, user: User, accounts: dict[str, ConnectedAccount]
) -> None:
    choose(browser, accounts["ada"])
    assert [browser.get(GUARDED).status_code for _ in range(2)] == [200, 200]
    browser.logout()
    browser.force_login(user)
    assert browser.get(GUARDED).status_code == 302


def test_the_choice_of_another_user_of_the_same_browser_counts_for_nothing(
    browser: Client, make_account: AccountFactory, accounts: dict[str, ConnectedAccount]
) -> None:
    choose(browser, accounts["ada"])
    kept = browser.session["ilert_oauth_choice"]
    other = User.objects.create_user("other")
    for username in ("grace", "ada"):
        make_account(user=other, username=username)
    browser.force_login(other)
    session = browser.session
    session["ilert_oauth_choice"] = kept
    session.save()
    assert browser.get(GUARDED).status_code == 302
    assert "ilert_oauth_choice" not in browser.session


def disconnected(account: ConnectedAccount) -> None:
    account.status = Status.DISCONNECTED
    account.save()


def needing_reconnection(account: ConnectedAccount) -> None:
    account.status = Status.RECONNECT_REQUIRED
    account.save()


def deleted(account: ConnectedAccount) -> None:
    ConnectedAccount.objects.filter(pk=account.pk).delete()


@pytest.mark.parametrize("spoilt", [needing_reconnection, spoil])
def test_where_the_chosen_account_cannot_be_used_no_other_is_taken_unasked(
    browser: Client, accounts: dict[str, ConnectedAccount], spoilt: Any
) -> None:
    choose(browser, accounts["ada"])
    spoilt(accounts["ada"])
    page = browser.get(browser.get(GUARDED)["Location"])
    choose(browser, accounts["grace"], page)
    assert browser.get(GUARDED).content == b"it works with grace @ acme"


@pytest.mark.django_db(transaction=True)
def test_a_choice_made_while_another_tab_connects_stands(
    browser: Client,
    accounts: dict[str, ConnectedAccount],
    ilert: StandIn,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose(browser, accounts["grace"])
    leave: Any = browser.post("/ilert/connect/")

    def choose_meanwhile() -> None:
        tab = Client()
        tab.cookies = browser.cookies
        tab.post(CHOOSE, {"account": accounts["ada"].pk})

    meanwhile = Acting(before=lambda: beside(choose_meanwhile))
    monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, meanwhile)
    browser.get(authorize(leave.url))
    assert browser.get(GUARDED).content == b"it works with ada @ acme"


@pytest.mark.parametrize("spoilt", [disconnected, deleted])
def test_a_choice_that_is_gone_is_forgotten(
    browser: Client,
    make_account: AccountFactory,
    accounts: dict[str, ConnectedAccount],
    spoilt: Any,
) -> None:
    make_account(username="linus")
    choose(browser, accounts["ada"])
    spoilt(accounts["ada"])
    assert browser.get(GUARDED)["Location"].startswith(CHOOSE)
    assert "ilert_oauth_choice" not in browser.session


def test_a_choice_without_the_scopes_is_not_taken_here_and_kept_elsewhere(
    browser: Client, make_account: AccountFactory, accounts: dict[str, ConnectedAccount]
) -> None:
    reader = make_account(username="linus", granted_scope="profile")
    choose(browser, reader, browser.get(CHOOSE))
    assert browser.get(GUARDED)["Location"].startswith(CHOOSE)
    assert (
        browser.get("/without-parentheses/").content
        == b"without parentheses works with linus @ acme"
    )


def test_only_matching_accounts_can_be_chosen(
    browser: Client, make_account: AccountFactory, accounts: dict[str, ConnectedAccount]
) -> None:
    reader = make_account(username="linus", granted_scope="profile")
    page = browser.get(browser.get(GUARDED)["Location"])
    assert [account.username for account in page.context["accounts"]] == ["ada", "grace"]
    form = Page(CHOOSE, page.content.decode()).form(CHOOSE)
    refused = browser.post(CHOOSE, form.fields | {"account": str(reader.pk)})
    assert refused.status_code == 200
    assert "ilert_oauth_choice" not in browser.session


@pytest.mark.parametrize("pk", ["", "0", "text", "9" * 30, "1\x00"])
def test_an_unknown_account_cannot_be_chosen(
    browser: Client, accounts: dict[str, ConnectedAccount], pk: str
) -> None:
    assert browser.post(CHOOSE, {"account": pk}).status_code == 200
    assert "ilert_oauth_choice" not in browser.session


def test_an_account_of_another_user_cannot_be_chosen(
    browser: Client, make_account: AccountFactory
) -> None:
    account = make_account(user=User.objects.create_user("other"))
    assert b"grace" not in browser.get(CHOOSE).content
    assert browser.post(CHOOSE, {"account": account.pk}).status_code == 200
    assert "ilert_oauth_choice" not in browser.session


@pytest.mark.parametrize("next_url", ["", *OFF_SITE])
def test_a_choice_that_leads_nowhere_ends_on_the_accounts_page(
    browser: Client, account: ConnectedAccount, next_url: str
) -> None:
    response = browser.post(CHOOSE, {"account": account.pk, "next": next_url})
    assert response["Location"] == "/ilert/"


def test_the_next_of_a_forms_address_counts(browser: Client, account: ConnectedAccount) -> None:
    response: Any = browser.post(f"{CHOOSE}?next=/after/", {"account": account.pk})
    assert response["Location"] == "/after/"


@pytest.mark.parametrize("next_url", ["after/", "after", "home", "?a=1"])
def test_a_relative_next_is_no_name_of_a_page(
    browser: Client, account: ConnectedAccount, next_url: str
) -> None:
    response = browser.post(CHOOSE, {"account": account.pk, "next": next_url})
    assert response["Location"] == next_url


def test_looking_chooses_nothing(browser: Client, accounts: dict[str, ConnectedAccount]) -> None:
    browser.get(CHOOSE, {"account": accounts["ada"].pk})
    assert "ilert_oauth_choice" not in browser.session


def test_another_account_may_be_connected_with_the_scopes_that_are_needed(
    browser: Client, user: User, accounts: dict[str, ConnectedAccount]
) -> None:
    page = browser.get(browser.get(GUARDED)["Location"])
    query = query_of(page.context["connect_url"])
    assert query["next"] == GUARDED
    assert signed_scopes.unsign(user, query["scopes"]) == "source:w"
    assert f'href="{page.context["connect_url"]}"' in html.unescape(page.content.decode())


def test_scopes_made_by_hand_are_signed_by_nobody(
    browser: Client, accounts: dict[str, ConnectedAccount]
) -> None:
    page = browser.get(CHOOSE, {"scopes": "wildcard:d"})
    assert page.context["connect_url"] == "/ilert/connect/"
    assert len(page.context["accounts"]) == 2


def test_who_has_no_account_is_invited_to_connect(browser: Client) -> None:
    page = browser.get(CHOOSE).content.decode()
    assert "None of your accounts matches." in page
    assert 'href="/ilert/connect/"' in page


def test_a_choice_needs_a_csrf_token(user: User, account: ConnectedAccount, settings: Any) -> None:
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "Csrf" not in name]
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    assert client.post(CHOOSE, {"account": account.pk}).status_code == 403


def test_the_names_of_accounts_are_shown_as_text(
    browser: Client, make_account: AccountFactory
) -> None:
    make_account(username="<b>grace", display_name="Grace <i>Demo")
    page = browser.get(CHOOSE).content
    assert b"&lt;b&gt;grace" in page
    assert b"Grace &lt;i&gt;Demo" in page


def test_the_view_runs_outside_of_atomic_requests() -> None:
    assert vars(views.choose)["_non_atomic_requests"] == {"default"}


def test_the_page_is_kept_in_no_cache_and_no_frame(browser: Client) -> None:
    response = browser.get(CHOOSE)
    assert "no-store" in response["Cache-Control"]
    assert response["X-Frame-Options"] == "DENY"


def test_a_visitor_is_sent_to_log_in(db: None) -> None:
    assert Client().get(CHOOSE)["Location"] == f"/login/?next={CHOOSE}"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_wrong_method_is_refused(browser: Client, method: str) -> None:
    assert browser.generic(method, CHOOSE).status_code == 405
