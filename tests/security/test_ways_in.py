"""What is not tested beside the views, flows and sessions themselves: see there first."""

from __future__ import annotations

import hmac
import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.contrib.auth.models import User
from django.test import Client

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import ReconnectRequiredError, TokenDecryptionError
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation, Status
from django_ilert_oauth.oauth import client, transport
from ilert_standin import Fault, StandIn
from ilert_standin.browser import authorize
from tests.conftest import AccountFactory
from tests.support.other_callers import Acting
from tests.support.raw_server import raw_server
from tests.support.watched_site import ADMIN, CONNECT

ACCOUNTS = "/ilert/"


@pytest.fixture
def callback_url(browser: Client, ilert: StandIn) -> str:
    """With a good code and state, not opened yet."""
    return begin(browser)


def begin(browser: Client, **form: Any) -> str:
    leave: Any = browser.post(CONNECT, form)
    return authorize(leave["Location"])


def scope_of(url: str) -> str:
    return dict(parse_qsl(urlsplit(url).query))["scope"]


def stored() -> list[dict[str, Any]]:
    return [dict(row) for row in ConnectedAccount.objects.order_by("pk").values()]


def assert_nothing_came_of_it(ilert: StandIn) -> None:
    assert ilert.token_requests == []
    assert stored() == []


# State


def test_browsers_are_compared_in_constant_time(
    browser: Client, callback_url: str, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good state is refused where that comparison says no: nothing else lets one in."""
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: False)
    assert browser.get(callback_url)["Location"] == ACCOUNTS
    assert_nothing_came_of_it(ilert)


def test_who_comes_back_without_a_session_is_told_what_to_check(
    user: User, callback_url: str, ilert: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    without_cookies = Client()
    assert without_cookies.get(callback_url)["Location"].startswith("/login/")
    assert "SESSION_COOKIE_SAMESITE" in caplog.text
    without_cookies.force_login(user)
    assert b"cookie" in without_cookies.get(ACCOUNTS).content
    assert_nothing_came_of_it(ilert)


def test_who_comes_back_with_another_session_is_told_what_to_check(
    user: User, callback_url: str, ilert: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = Client()
    elsewhere.force_login(user)
    page = elsewhere.get(callback_url, follow=True)
    assert "SESSION_COOKIE_SAMESITE" in caplog.text
    assert b"cookie" in page.content
    assert_nothing_came_of_it(ilert)


def test_a_code_of_one_ilert_is_not_sent_to_another(
    browser: Client, callback_url: str, ilert: StandIn, settings: Any
) -> None:
    with raw_server(lambda *_: None) as elsewhere:
        settings.ILERT_OAUTH_API_URL = elsewhere.url
        page = browser.get(callback_url, follow=True)
        assert elsewhere.received == []
    assert page.redirect_chain == [(ACCOUNTS, 302)]
    assert b"Please connect again" in page.content
    assert_nothing_came_of_it(ilert)


# Requests


@pytest.mark.parametrize(
    "name", ["scope", "requested_scope", "granted_scope", "ILERT_OAUTH_SCOPES"]
)
def test_no_parameter_widens_the_scope(browser: Client, ilert: StandIn, name: str) -> None:
    wider = {name: "wildcard:d"}
    leave: Any = browser.post(f"{CONNECT}?{name}=wildcard:d", wider)
    assert scope_of(leave["Location"]) == "profile"
    assert b"everything in ilert" not in browser.get(CONNECT, wider).content


def test_scopes_that_nobody_signed_send_nobody_to_ilert(browser: Client, ilert: StandIn) -> None:
    page: Any = browser.post(f"{CONNECT}?scopes=wildcard:d", {"scopes": "wildcard:d"})
    assert page.status_code == 200
    assert b"everything in ilert" not in page.content
    assert b"wildcard" not in page.content


def test_the_account_of_somebody_else_widens_no_scope(
    browser: Client, make_account: AccountFactory
) -> None:
    other = User.objects.create_user("other")
    account = make_account(user=other, granted_scope="wildcard:d")
    assert b"everything in ilert" not in browser.get(CONNECT, {"account": account.pk}).content
    assert browser.post(CONNECT, {"account": account.pk}).status_code == 200


@pytest.mark.parametrize("name", ["user", "user_id", "api_url", "redirect_uri", "client_id"])
def test_no_parameter_changes_who_asks_or_where_the_code_goes(
    browser: Client, ilert: StandIn, name: str
) -> None:
    leave: Any = browser.post(CONNECT, {name: "https://evil.example/"})
    assert "evil" not in leave["Location"]


@pytest.mark.parametrize("action", ["refresh", "check", "disconnect"])
def test_an_admin_action_by_get_does_nothing(
    account: ConnectedAccount, ilert: StandIn, action: str
) -> None:
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    before = stored()
    chosen = {"action": f"{action}_accounts", "_selected_action": str(account.pk)}
    root.get(ADMIN, {**chosen, "post": "yes"})
    assert stored() == before
    assert ilert.requests == []


def test_an_admin_action_needs_a_csrf_token(account: ConnectedAccount, ilert: StandIn) -> None:
    root = Client(enforce_csrf_checks=True)
    root.force_login(User.objects.create_superuser("root"))
    form = {"action": "disconnect_accounts", "_selected_action": account.pk, "post": "yes"}
    assert root.post(ADMIN, form).status_code == 403
    account.refresh_from_db()
    assert account.status == Status.CONNECTED
    assert ilert.requests == []


@pytest.mark.parametrize("pk", ["9" * 5000, "١", "0x1", "1e3", "-1", "1\x00"])
@pytest.mark.parametrize("method", ["get", "post"])
def test_any_text_for_an_account_to_reconnect_is_no_error(
    browser: Client, method: str, pk: str
) -> None:
    assert getattr(browser, method)(CONNECT, {"account": pk}).status_code == 200


def test_nothing_can_be_found_by_its_ciphertext_in_the_admin(account: ConnectedAccount) -> None:
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    for name in ("access_token_ciphertext", "refresh_token_ciphertext"):
        found = root.get(ADMIN, {f"{name}__startswith": "gAAAA"})
        assert (found.status_code, b"grace @ acme" in found.content) != (200, True)


# What ilert says

MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture
def marked_up(browser: Client, ilert: StandIn) -> list[Any]:
    """Every page about a person whose names are all markup."""
    info = {"active": True, "tenant_id": MARKUP, "username": MARKUP, "scope": f"profile {MARKUP}"}
    person = {"id": 1, "firstName": MARKUP, "lastName": MARKUP, "email": MARKUP}
    ilert.add_fault("token_info", Fault(200, json.dumps(info)), times=None)
    ilert.add_fault("users/current", Fault(200, json.dumps(person)))
    pages: list[Any] = [browser.get(begin(browser), follow=True)]
    pk = ConnectedAccount.objects.get().pk
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    pages += [browser.get(f"/ilert/{pk}/disconnect/")]
    pages += [root.get(ADMIN)]
    pages += [root.get(f"{ADMIN}{pk}/{name}/") for name in ("change", "history", "delete")]
    form = {"action": "check_accounts", "_selected_action": pk}
    pages += [root.post(ADMIN, form)]
    return [*pages, root.post(ADMIN, {**form, "post": "yes"}, follow=True)]


def test_what_ilert_says_is_shown_as_text(marked_up: list[Any]) -> None:
    assert [page.status_code for page in marked_up] == [200] * 8
    for page in marked_up:
        assert MARKUP not in page.content.decode()
        assert "&lt;img" in page.content.decode()


@pytest.mark.parametrize(
    "other",
    [("acme", name) for name in ["Grace", "gráce", "grace ", "ｇrace"]] + [("ÄCME", "grace")],
)
def test_people_whose_names_only_look_alike_are_each_connected(
    browser: Client, ilert: StandIn, other: tuple[str, str]
) -> None:
    """MariaDB's usual collations call them equal."""
    tokens = {}
    for tenant_id, username in [("acme", "grace"), other]:
        info = {"active": True, "tenant_id": tenant_id, "username": username, "scope": "source"}
        ilert.add_fault("token_info", Fault(200, json.dumps(info)))
        browser.get(begin(browser))
        tokens[tenant_id, username] = ilert.requests[-1].form["token"]
    accounts = ConnectedAccount.objects.all()
    assert {(a.tenant_id, a.username): a.access_token for a in accounts} == tokens


# In between


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("ending", ["disconnect", "delete"])
def test_a_grant_that_is_refreshed_while_it_is_ended_does_not_live_on(
    account: ConnectedAccount,
    ilert: StandIn,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
) -> None:
    ilert.options.rotate = True
    end: dict[str, Any] = {
        "disconnect": lambda: flows.disconnect(ConnectedAccount.objects.get()),
        "delete": lambda: ConnectedAccount.objects.get().delete(),
    }
    late = Acting(after=end[ending], path=client.TOKEN_PATH)
    monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, late)
    with pytest.raises(ReconnectRequiredError):
        flows.refresh(account, force=True)
    assert ilert.live_refresh_tokens("acme", "grace") == 0


@pytest.mark.parametrize("table", [ConnectedAccount, PendingRevocation])
def test_who_writes_an_address_of_their_own_into_a_row_is_sent_no_token(
    account: ConnectedAccount, table: Any
) -> None:
    with raw_server(lambda *_: None) as elsewhere:
        if table is ConnectedAccount:
            table.objects.update(api_url=elsewhere.url)
        flows.disconnect(ConnectedAccount.objects.get())
        PendingRevocation.objects.update(api_url=elsewhere.url)
        result = flows.revoke_pending()
        assert elsewhere.received == []
    assert list(result.failures.values()) == [TokenDecryptionError.code]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ["CLIENT_ID", "CLIENT_SECRET"])
def test_a_setting_that_is_missing_keeps_nobody_from_ending_a_grant(
    account: ConnectedAccount, ilert: StandIn, settings: Any, name: str
) -> None:
    setattr(settings, f"ILERT_OAUTH_{name}", None)
    flows.disconnect(account)
    assert account.status == Status.DISCONNECTED
    assert ilert.live_refresh_tokens("acme", "grace") == 0
