from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from ilert_standin import StandIn
from ilert_standin.faults import Fault
from tests.conftest import AccountFactory

LIST = "/admin/ilert_oauth/connectedaccount/"
ACTIONS = {
    "refresh_accounts": "refresh_connectedaccount",
    "check_accounts": "check_connectedaccount",
    "disconnect_accounts": "disconnect_connectedaccount",
    "delete_selected": "delete_connectedaccount",
}

Staff = Callable[..., Client]


@pytest.fixture
def root(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def staff(db: None) -> Staff:
    def make(*permissions: str) -> Client:
        user = User.objects.create_user("staff", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client = Client()
        client.force_login(user)
        return client

    return make


def page(client: Client, path: str = LIST, **query: Any) -> str:
    response = client.get(path, query)
    assert response.status_code == 200
    return " ".join(html.unescape(response.content.decode()).split())


def act(client: Client, action: str, *accounts: ConnectedAccount, **form: str) -> Any:
    """The list that comes after the action."""
    chosen = {"action": action, "_selected_action": [account.pk for account in accounts], **form}
    response = client.post(LIST, chosen, follow=True)
    assert response.status_code == 200
    return response


def said(response: Any, level: str) -> list[str]:
    return [str(message) for message in response.context["messages"] if message.tags == level]


def spoil(account: ConnectedAccount) -> ConnectedAccount:
    account.access_token_ciphertext = account.refresh_token_ciphertext = "broken"
    account.save()
    return account


def pages_of(account: ConnectedAccount) -> list[str]:
    return [LIST, *(f"{LIST}{account.pk}/{name}/" for name in ("change", "history", "delete"))]


@pytest.mark.parametrize("number", range(4))
def test_no_page_shows_a_token(root: Client, account: ConnectedAccount, number: int) -> None:
    shown = page(root, pages_of(account)[number])
    assert "grace @ acme" in shown
    secrets = [
        account.access_token,
        account.refresh_token,
        account.access_token_ciphertext,
        account.refresh_token_ciphertext,
    ]
    assert [secret for secret in map(str, secrets) if secret in shown] == []
    assert "ciphertext" not in shown


@pytest.mark.parametrize("number", range(4))
def test_an_account_that_cannot_be_read_breaks_no_page(
    root: Client, account: ConnectedAccount, number: int
) -> None:
    assert "grace @ acme" in page(root, pages_of(spoil(account))[number])


def test_nobody_adds_an_account(root: Client, account: ConnectedAccount) -> None:
    assert f"{LIST}add/" not in page(root)
    assert root.get(f"{LIST}add/").status_code == 403
    assert root.post(f"{LIST}add/", {"username": "mallory"}).status_code == 403
    assert ConnectedAccount.objects.count() == 1


def test_nobody_changes_an_account(root: Client, account: ConnectedAccount) -> None:
    path = f"{LIST}{account.pk}/change/"
    assert "<input" not in page(root, path).partition("connectedaccount_form")[2].replace(
        '<input type="hidden"', ""
    )
    assert root.post(path, {"username": "mallory"}).status_code == 403
    account.refresh_from_db()
    assert account.username == "grace"


def test_an_account_is_shown_with_all_that_may_be_shown(
    root: Client, make_account: AccountFactory
) -> None:
    account = make_account(
        display_name="Grace Demo", email="grace@acme.example", ilert_user_id=4711
    )
    shown = page(root, f"{LIST}{account.pk}/change/")
    for text in ["site-user", "Grace Demo", "grace@acme.example", "4711", "profile source:w"]:
        assert text in shown


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"status__exact": "reconnect_required"}, ["ada"]),
        ({"reason__exact": "revoked_at_ilert"}, ["ada"]),
        ({"tenant_id": "globex"}, ["linus"]),
        ({"last_error": "server_error"}, ["linus"]),
        ({"q": "ada"}, ["ada"]),
        ({"q": "globex"}, ["linus"]),
        ({"q": "Amazing"}, ["grace"]),
        ({"q": "other-user"}, ["linus"]),
        ({"q": "nobody"}, []),
    ],
)
def test_accounts_are_found_by_filter_and_search(
    root: Client, make_account: AccountFactory, query: dict[str, str], found: list[str]
) -> None:
    make_account(display_name="Amazing Grace")
    make_account(username="ada", status=Status.RECONNECT_REQUIRED, reason=Reason.REVOKED_AT_ILERT)
    other = User.objects.create_user("other-user")
    make_account(username="linus", tenant_id="globex", user=other, last_error="server_error")
    response = root.get(LIST, query)
    assert [account.username for account in response.context["cl"].queryset] == found


def test_the_list_offers_its_filters(root: Client, account: ConnectedAccount) -> None:
    shown = page(root)
    for title in ("status", "reason", "tenant", "last error"):
        assert f"By {title}" in shown


def test_the_number_of_queries_does_not_grow_with_the_list(
    root: Client, make_account: AccountFactory
) -> None:
    def add(numbers: range) -> None:
        for number in numbers:
            user = User.objects.create_user(f"person-{number}")
            make_account(username=f"user-{number}", user=user)

    counts = []
    for numbers in (range(3), range(3, 30)):
        add(numbers)
        with CaptureQueriesContext(connection) as queries:
            shown = page(root)
        assert f"person-{numbers[-1]}" in shown
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_refresh_renews_even_what_was_renewed_just_now(
    root: Client, account: ConnectedAccount, ilert: StandIn
) -> None:
    before = account.access_token_ciphertext
    for count in (1, 2):
        response = act(root, "refresh_accounts", account)
        assert said(response, "success") == ["1 account done."]
        assert said(response, "error") == []
        assert len(ilert.token_requests) == count
    account.refresh_from_db()
    assert account.access_token_ciphertext != before


def test_check_asks_ilert_and_stores_the_scope(
    root: Client, make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(granted_scope="profile")
    ConnectedAccount.objects.update(granted_scope="out of date")
    assert said(act(root, "check_accounts", account), "success") == ["1 account done."]
    account.refresh_from_db()
    assert account.granted_scope == "profile"
    assert ilert.token_requests == []


def test_disconnect_names_the_administrator_as_the_reason(
    root: Client,
    make_account: AccountFactory,
    ilert: StandIn,
    sent: list[tuple[str, dict[str, Any]]],
    django_capture_on_commit_callbacks: Any,
) -> None:
    accounts = [make_account(), make_account(username="ada")]
    with django_capture_on_commit_callbacks(execute=True):
        response = act(root, "disconnect_accounts", *accounts)
    assert said(response, "success") == ["2 accounts done."]
    rows = ConnectedAccount.objects.values_list("status", "reason")
    assert set(rows) == {(Status.DISCONNECTED, Reason.ADMIN)}
    assert ilert.live_refresh_tokens("acme", "grace") == 0
    assert [facts["request"].user.username for _name, facts in sent] == ["root", "root"]


@pytest.mark.parametrize("action", ["refresh_accounts", "check_accounts"])
def test_failures_are_named_and_stop_none_of_the_others(
    root: Client, make_account: AccountFactory, ilert: StandIn, action: str
) -> None:
    accounts = [make_account(username=name) for name in ("ada", "grace", "linus")]
    spoil(accounts[1])
    response = act(root, action, *accounts)
    (error,) = said(response, "error")
    assert error.startswith("grace @ acme: ")
    assert "ILERT_OAUTH_ENCRYPTION_KEYS" in error
    assert said(response, "success") == ["2 accounts done."]


@pytest.mark.parametrize("action", ["refresh_accounts", "check_accounts"])
def test_no_success_is_claimed_where_all_failed(
    root: Client, account: ConnectedAccount, action: str
) -> None:
    response = act(root, action, spoil(account))
    assert len(said(response, "error")) == 1
    assert said(response, "success") == []


def test_a_grant_that_is_gone_is_named(
    root: Client, account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.revoke_app("acme", "grace")
    (error,) = said(act(root, "refresh_accounts", account), "error")
    assert error.startswith("grace @ acme: ")
    account.refresh_from_db()
    assert account.status == Status.RECONNECT_REQUIRED


@pytest.mark.parametrize("action", ["refresh_accounts", "check_accounts"])
def test_messages_hold_nothing_that_ilert_said(
    root: Client, account: ConnectedAccount, ilert: StandIn, action: str
) -> None:
    body = '{"code": "words-of-ilert", "error": "words-of-ilert"}'
    for endpoint in ("token", "token_info"):
        ilert.add_fault(endpoint, Fault(400, body))
    response = act(root, action, account)
    assert len(said(response, "error")) == 1
    assert "words-of-ilert" not in response.content.decode()


def test_deleting_one_account_ends_its_grant(
    root: Client,
    account: ConnectedAccount,
    ilert: StandIn,
    django_capture_on_commit_callbacks: Any,
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        root.post(f"{LIST}{account.pk}/delete/", {"post": "yes"})
    assert not ConnectedAccount.objects.exists()
    assert ilert.live_refresh_tokens("acme", "grace") == 0


def test_deleting_many_accounts_ends_their_grants(
    root: Client,
    make_account: AccountFactory,
    ilert: StandIn,
    django_capture_on_commit_callbacks: Any,
) -> None:
    accounts = [make_account(username=name) for name in ("grace", "ada")]
    with django_capture_on_commit_callbacks(execute=True):
        act(root, "delete_selected", *accounts, post="yes")
    assert not ConnectedAccount.objects.exists()
    for name in ("grace", "ada"):
        assert ilert.live_refresh_tokens("acme", name) == 0


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_needs_a_permission_of_its_own(
    staff: Staff, account: ConnectedAccount, ilert: StandIn, action: str
) -> None:
    others = [permission for name, permission in ACTIONS.items() if name != action]
    client = staff("view_connectedaccount", "change_connectedaccount", *others)
    assert f'<option value="{action}">' not in page(client)
    before = list(ConnectedAccount.objects.values())
    act(client, action, account, post="yes")
    assert list(ConnectedAccount.objects.values()) == before
    assert ilert.requests == []


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_needs_no_other_permission(
    staff: Staff, account: ConnectedAccount, action: str
) -> None:
    client = staff("view_connectedaccount", ACTIONS[action])
    offered = [name for name in ACTIONS if f'<option value="{name}">' in page(client)]
    assert offered == [action]
    before = list(ConnectedAccount.objects.values())
    response = act(client, action, account, post="yes")
    assert len(said(response, "success")) == 1
    if action != "check_accounts":
        assert list(ConnectedAccount.objects.values()) != before


def test_staff_without_the_permission_see_nothing(staff: Staff, account: ConnectedAccount) -> None:
    client = staff()
    assert [client.get(path).status_code for path in pages_of(account)] == [403] * 4


def test_a_user_who_is_no_staff_sees_nothing(browser: Client, account: ConnectedAccount) -> None:
    assert [browser.get(path).status_code for path in pages_of(account)] == [302] * 4


def test_a_row_whose_key_is_lost_says_so_on_every_page(
    root: Client, account: ConnectedAccount
) -> None:
    spoil(account)
    assert "cannot be read: reconnect" in page(root)
    assert "cannot be read: reconnect" in page(root, f"{LIST}{account.pk}/change/")
