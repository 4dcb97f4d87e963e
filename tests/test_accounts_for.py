"""Accounts of others that a site lets its users use, by ``ILERT_OAUTH_ACCOUNTS_FOR``."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Group, User
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.core.management import CommandError, call_command
from django.http import HttpRequest
from django.template import RequestContext, Template
from django.test import Client, RequestFactory

from django_ilert_oauth import flows
from django_ilert_oauth.conf import conf
from django_ilert_oauth.internal import account_selection
from django_ilert_oauth.models import ConnectedAccount, Status
from django_ilert_oauth.oauth.client import TOKEN_PATH
from ilert_standin import StandIn
from ilert_standin.browser import authorize
from tests.conftest import AccountFactory
from tests.support.connect_steps import CONNECT, press, query_of
from tests.support.html_page import Page

ACCOUNTS, GUARDED, GREEDY = "/ilert/", "/function/it/", "/greedy/"
ONLY_ITS_OWNER = "Only its owner can reconnect grace @ acme or allow more"
HOOK = "tests.support.team_accounts.accounts_for"


@pytest.fixture(autouse=True)
def site(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.support.guarded_site"
    settings.ILERT_OAUTH_ACCOUNTS_FOR = HOOK


@pytest.fixture
def owner(user: User) -> User:
    """Shares two groups with the user of the browser, and is somebody else."""
    owner = User.objects.create_user("owner")
    for name in ("operations", "on call"):
        group = Group.objects.create(name=name)
        group.user_set.set([user, owner])
    return owner


@pytest.fixture
def shared(owner: User, make_account: AccountFactory) -> ConnectedAccount:
    """The account of the owner."""
    return make_account(user=owner)


@pytest.fixture
def manager(user: User) -> User:
    user.is_staff = True
    user.save()
    return user


@pytest.fixture
def request_of(user: User) -> HttpRequest:
    request = RequestFactory().get("/page/")
    request.user = user
    request.session = {}  # type: ignore[assignment]
    return request


def needs_reconnecting(account: ConnectedAccount) -> None:
    account.status = Status.RECONNECT_REQUIRED
    account.save()


# Use


def test_a_view_works_with_the_account_of_somebody_else(
    browser: Client, shared: ConnectedAccount
) -> None:
    assert browser.get(GUARDED).content == b"it works with grace @ acme"


def test_an_account_that_a_join_lists_twice_is_one(
    request_of: HttpRequest, shared: ConnectedAccount
) -> None:
    assert account_selection.accounts_for(request_of) == [shared]


def test_what_the_site_does_not_name_cannot_be_used_although_it_is_ones_own(
    browser: Client, user: User, account: ConnectedAccount
) -> None:
    response = browser.get(GUARDED)
    assert response["Location"].startswith(CONNECT)
    assert str(account) in Page.of(browser.get(ACCOUNTS)).text


def test_the_choice_page_lists_the_accounts_of_others(
    browser: Client, user: User, shared: ConnectedAccount, make_account: AccountFactory
) -> None:
    make_account(username="ada")
    shown = Page.of(browser.get(browser.get(GUARDED)["Location"]))
    assert shown.texts("button") == ["ada @ acme", "grace @ acme"]


def test_a_choice_that_may_no_longer_be_used_is_dropped(
    browser: Client, user: User, shared: ConnectedAccount, make_account: AccountFactory
) -> None:
    make_account()
    browser.post("/ilert/choose/", {"account": shared.pk})
    assert browser.get(GUARDED).status_code == 200
    shared.user.groups.clear()
    assert browser.get(GUARDED).status_code == 200
    assert "ilert_oauth_choice" not in browser.session


def test_the_tags_find_the_account_of_somebody_else(
    request_of: HttpRequest, shared: ConnectedAccount
) -> None:
    template = Template("{% load ilert_oauth %}{% ilert_account as account %}{{ account }}")
    assert template.render(RequestContext(request_of)) == "grace @ acme"


def test_the_site_is_not_asked_for_a_visitor(
    client: Client, shared: ConnectedAccount, request_of: HttpRequest, settings: Any
) -> None:
    settings.ILERT_OAUTH_ACCOUNTS_FOR = pytest.fail
    assert client.get(GUARDED)["Location"].startswith("/login/")
    request_of.user = AnonymousUser()
    assert account_selection.manageable(request_of) == []


# Manage


def test_the_accounts_page_shows_what_others_own_without_buttons(
    browser: Client, shared: ConnectedAccount, make_account: AccountFactory
) -> None:
    assert Page.of(browser.get(ACCOUNTS)).texts("button") == []
    assert "Only its owner can reconnect or disconnect it." in Page.of(browser.get(ACCOUNTS)).text
    make_account(username="mine")
    assert Page.of(browser.get(ACCOUNTS)).texts("button") == ["Reconnect"]


def test_who_may_manage_it_gets_the_buttons(
    browser: Client, manager: User, shared: ConnectedAccount
) -> None:
    page = Page.of(browser.get(ACCOUNTS))
    assert page.texts("button") == ["Reconnect"]
    assert "Only its owner" not in page.text


@pytest.mark.parametrize("method", ["get", "post"])
def test_the_account_of_somebody_else_is_not_disconnected(
    browser: Client, shared: ConnectedAccount, method: str
) -> None:
    response = getattr(browser, method)(f"/ilert/{shared.pk}/disconnect/")
    assert response.status_code == 404
    assert ConnectedAccount.objects.connected().count() == 1


def test_the_account_of_somebody_else_is_not_removed(
    browser: Client, shared: ConnectedAccount
) -> None:
    flows.disconnect(shared)
    assert browser.post(f"/ilert/{shared.pk}/remove/").status_code == 404
    assert ConnectedAccount.objects.count() == 1


def test_who_may_manage_it_disconnects_and_removes_it(
    browser: Client, manager: User, shared: ConnectedAccount
) -> None:
    browser.post(f"/ilert/{shared.pk}/disconnect/")
    assert ConnectedAccount.objects.get().status == Status.DISCONNECTED
    browser.post(f"/ilert/{shared.pk}/remove/")
    assert not ConnectedAccount.objects.exists()


# Reconnect


@pytest.mark.parametrize("method", ["get", "post"])
def test_the_connect_page_says_that_only_the_owner_can_reconnect(
    browser: Client, shared: ConnectedAccount, method: str
) -> None:
    page = Page.of(getattr(browser, method)(CONNECT, {"account": shared.pk}))
    assert page.text.count(ONLY_ITS_OWNER) == 1
    [hidden] = [field for field in page.all("input") if field.attributes["name"] == "account"]
    assert "value" not in hidden.attributes


def test_the_connect_page_says_nothing_of_accounts_that_the_user_may_not_use(
    browser: Client, shared: ConnectedAccount
) -> None:
    shared.user.groups.clear()
    page = Page.of(browser.get(CONNECT, {"account": shared.pk}))
    assert "The account to reconnect is no longer here" in page.text
    assert "grace" not in page.text


def test_where_it_needs_reconnecting_the_user_is_told_who_can(
    browser: Client, shared: ConnectedAccount
) -> None:
    needs_reconnecting(shared)
    assert ONLY_ITS_OWNER in Page.of(browser.get(GUARDED, follow=True)).text


@pytest.mark.parametrize("asked_before", ["", "profile source:w alert:w"])
def test_where_it_lacks_scopes_the_user_is_told_who_can_allow_them(
    browser: Client, shared: ConnectedAccount, asked_before: str
) -> None:
    ConnectedAccount.objects.update(requested_scope=asked_before)
    assert ONLY_ITS_OWNER in Page.of(browser.get(GREEDY, follow=True)).text


def test_users_are_sent_to_reconnect_their_own_first(
    browser: Client, shared: ConnectedAccount, user: User, make_account: AccountFactory
) -> None:
    user.groups.get(name="on call").user_set.remove(shared.user)
    mine = make_account(username="mine", connected_at=shared.connected_at)
    needs_reconnecting(mine)
    asked = query_of(browser.get(GREEDY)["Location"])["account"]
    assert asked == str(mine.pk)


@pytest.mark.parametrize(
    ("is_staff", "text"), [(False, "Connect ilert"), (True, "Reconnect ilert")]
)
def test_a_button_offers_to_reconnect_only_what_the_user_may(
    request_of: HttpRequest, shared: ConnectedAccount, user: User, is_staff: bool, text: str
) -> None:
    needs_reconnecting(shared)
    user.is_staff = is_staff
    button = Template("{% load ilert_oauth %}{% ilert_connect_button %}")
    assert f">{text}<" in button.render(RequestContext(request_of))


def test_the_flow_reconnects_for_nobody_who_may_not(
    request_of: HttpRequest, shared: ConnectedAccount
) -> None:
    with pytest.raises(PermissionDenied):
        flows.start_connect(request_of, account=shared)


def reconnect(browser: Client, account: ConnectedAccount, username: str = "grace") -> Any:
    page = browser.get(CONNECT, {"account": account.pk})
    return authorize(press(browser, page), username=username)


@pytest.mark.django_db(transaction=True)
def test_an_account_that_a_manager_reconnects_stays_its_owners(
    browser: Client, manager: User, shared: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    needs_reconnecting(shared)
    callback = reconnect(browser, shared)
    for _ in range(2):  # a reload lands there, too
        assert browser.get(callback)["Location"] == ACCOUNTS
    account = ConnectedAccount.objects.get()
    assert (account.pk, account.user, account.status) == (shared.pk, shared.user, Status.CONNECTED)
    assert "grace @ acme is connected." in Page.of(browser.get(ACCOUNTS)).text
    assert ilert.live_refresh_tokens("acme", "grace") == 1


def test_a_manager_who_comes_back_as_another_person_has_an_account_of_their_own(
    browser: Client, manager: User, shared: ConnectedAccount
) -> None:
    browser.get(reconnect(browser, shared, username="ada"))
    owners = {str(account): account.user for account in ConnectedAccount.objects.all()}
    assert owners == {"grace @ acme": shared.user, "ada @ acme": manager}


def test_who_may_manage_it_no_longer_when_coming_back_has_an_account_of_their_own(
    browser: Client, manager: User, shared: ConnectedAccount
) -> None:
    callback, before = reconnect(browser, shared), shared.connected_at
    shared.user.groups.clear()
    browser.get(callback)
    shared.refresh_from_db()
    assert shared.connected_at == before
    assert str(ConnectedAccount.objects.get(user=manager)) == "grace @ acme"


@pytest.mark.django_db(transaction=True)
def test_who_may_manage_it_no_longer_once_ilert_has_responded_has_an_account_of_their_own(
    browser: Client, manager: User, shared: ConnectedAccount, during_request: Any
) -> None:
    callback, before = reconnect(browser, shared), shared.connected_at
    during_request(after=shared.user.groups.clear, path=TOKEN_PATH)
    browser.get(callback)
    shared.refresh_from_db()
    assert shared.connected_at == before
    assert str(ConnectedAccount.objects.get(user=manager)) == "grace @ acme"


@pytest.mark.django_db(transaction=True)
def test_a_grant_does_not_go_to_the_user_whom_the_account_was_handed_to_meanwhile(
    browser: Client, user: User, account: ConnectedAccount, during_request: Any
) -> None:
    successor = User.objects.create_user("successor")
    callback, before = reconnect(browser, account), account.connected_at
    hand_over = ConnectedAccount.objects.filter(pk=account.pk).update
    during_request(after=lambda: hand_over(user=successor), path=TOKEN_PATH)
    browser.get(callback)
    account.refresh_from_db()
    assert (account.user, account.connected_at) == (successor, before)
    assert ConnectedAccount.objects.get(user=user).username == "grace"


def test_a_reload_shows_nobody_an_account_that_they_may_manage_no_longer(
    browser: Client, manager: User, shared: ConnectedAccount
) -> None:
    callback = reconnect(browser, shared)
    browser.get(callback)
    shared.user.groups.clear()
    browser.get(callback)
    assert "it has already been used" in Page.of(browser.get(ACCOUNTS)).text


def test_a_new_account_is_asked_for_no_more_than_the_users_own_hold(
    browser: Client, manager: User, owner: User, make_account: AccountFactory
) -> None:
    make_account(user=owner, granted_scope="profile schedule")
    scope = query_of(press(browser, browser.get(CONNECT)))["scope"]
    assert scope == "profile"


# The setting


def test_the_setting_may_be_a_function(
    browser: Client, settings: Any, shared: ConnectedAccount
) -> None:
    settings.ILERT_OAUTH_ACCOUNTS_FOR = lambda request: ConnectedAccount.objects.all()
    assert browser.get(GUARDED).status_code == 200
    assert browser.get(f"/ilert/{shared.pk}/disconnect/").status_code == 404


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tests.nowhere.accounts_for", "cannot be imported: No module named 'tests.nowhere'"),
        ("tests.urls.nothing", 'cannot be imported: Module "tests.urls" does not define'),
        ("tests.urls.urlpatterns", "must be a function, or its dotted path"),
        (7, "must be a function, or its dotted path"),
    ],
)
def test_check_names_a_setting_that_leads_to_no_function(
    settings: Any, value: object, message: str
) -> None:
    settings.ILERT_OAUTH_ACCOUNTS_FOR = value
    with pytest.raises(CommandError, match=r"ilert_oauth\.E002") as raised:
        call_command("check")
    assert f"ILERT_OAUTH_ACCOUNTS_FOR {message}" in str(raised.value)


ROWS = ConnectedAccount.objects.all()


@pytest.mark.parametrize("value", [None, [], User.objects.all(), ROWS[:1], ROWS.union(ROWS)])
def test_what_returns_no_accounts_that_can_be_filtered_is_named(
    request_of: HttpRequest, settings: Any, value: object
) -> None:
    settings.ILERT_OAUTH_ACCOUNTS_FOR = lambda request: value
    with pytest.raises(ImproperlyConfigured, match="a queryset of ConnectedAccount"):
        account_selection.accounts_for(request_of)


def test_by_default_nothing_but_the_users_own_is_asked_for(settings: Any) -> None:
    del settings.ILERT_OAUTH_ACCOUNTS_FOR
    assert conf.accounts_for is None
