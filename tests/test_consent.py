"""A view needs more than its decorator says, which ilert's 403 tells."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group, User
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory

from django_ilert_oauth.decorators import ilert_account_required
from django_ilert_oauth.exceptions import IlertScopeError, ReconnectRequiredError
from django_ilert_oauth.models import ConnectedAccount
from ilert_standin import StandIn
from ilert_standin.oauth import Grants
from tests.conftest import AccountFactory
from tests.support import refused_site
from tests.support.connect_steps import (
    go_through_ilert,
    is_sent_to_connect,
    query_of,
    scopes_asked_at_ilert,
)

JSON = {"Accept": "application/json"}

each_kind = pytest.mark.parametrize("kind", refused_site.KINDS)


@pytest.fixture(autouse=True)
def refused(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.support.refused_site"


@pytest.fixture
def narrow(make_account: AccountFactory) -> ConnectedAccount:
    return make_account(granted_scope="profile alert:w")


@each_kind
def test_who_lacks_what_a_view_turns_out_to_need_is_asked_for_it_and_comes_back(
    browser: Client, narrow: ConnectedAccount, kind: str
) -> None:
    sent = browser.get(f"/{kind}/?a=1")
    assert is_sent_to_connect(sent)
    assert query_of(sent["Location"])["account"] == str(narrow.pk)
    landed = go_through_ilert(browser, sent)
    assert landed == f"/{kind}/?a=1"
    assert b"schedules of grace @ acme" in browser.get(landed).content


@each_kind
def test_an_asynchronous_server_asks_for_it_too(
    user: User, narrow: ConnectedAccount, kind: str
) -> None:
    client = AsyncClient()
    client.force_login(user)
    assert is_sent_to_connect(async_to_sync(client.get)(f"/{kind}/"))


def test_what_is_held_is_asked_for_as_well(browser: Client, narrow: ConnectedAccount) -> None:
    page = browser.get(browser.get("/function/")["Location"])
    assert scopes_asked_at_ilert(browser, page) == {"profile", "alert:w", "schedule"}


@each_kind
def test_a_program_is_told_what_is_missing(
    browser: Client, narrow: ConnectedAccount, kind: str
) -> None:
    for _ in range(2):
        response = browser.get(f"/{kind}/", headers=JSON)
        assert response.status_code == 403
        body = response.json()
        assert (body["error"], body["missing_scopes"]) == ("insufficient_scope", ["schedule"])
        assert query_of(body["connect_url"])["account"] == str(narrow.pk)
    assert is_sent_to_connect(browser.get(f"/{kind}/"))


@pytest.mark.parametrize("headers", [{}, JSON])
def test_no_cache_keeps_what_a_user_was_asked(
    browser: Client, narrow: ConnectedAccount, headers: dict[str, str]
) -> None:
    response = browser.get("/function/", headers=headers)
    assert "no-store" in response["Cache-Control"]
    assert {"Accept", "Sec-Fetch-Mode"} <= set(response["Vary"].split(", "))


# Asked once


def test_who_was_given_it_and_is_refused_all_the_same_is_told_so(
    browser: Client, narrow: ConnectedAccount
) -> None:
    landed = go_through_ilert(browser, browser.get("/refused/source:w/"))
    response = browser.get(landed)
    assert response.status_code == 403
    page = response.content.decode()
    assert "grace @ acme is connected, but ilert has not let this site" in page
    assert "See, create and edit alert sources" in page


def test_who_granted_less_is_told_so_in_each_browser(
    browser: Client, user: User, narrow: ConnectedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue = Grants.issue_code
    monkeypatch.setattr(
        Grants, "issue_code", lambda self, who, _, challenge: issue(self, who, "profile", challenge)
    )
    landed = go_through_ilert(browser, browser.get("/function/"))
    other = Client()
    other.force_login(user)
    assert [each.get(landed).status_code for each in (browser, other)] == [403, 403]


def test_who_turns_back_is_not_sent_a_second_time(
    browser: Client, narrow: ConnectedAccount
) -> None:
    assert is_sent_to_connect(browser.get("/function/"))
    assert browser.get("/function/").status_code == 403


def test_the_button_asks_again(browser: Client, narrow: ConnectedAccount) -> None:
    browser.get("/function/")
    url = browser.get("/function/").context["connect_url"]
    landed = go_through_ilert(browser, {"Location": url})
    assert browser.get(landed).status_code == 200


def test_who_comes_back_as_somebody_else_is_not_sent_round(
    browser: Client, narrow: ConnectedAccount
) -> None:
    browser.post("/ilert/choose/", {"account": narrow.pk})
    landed = go_through_ilert(browser, browser.get("/function/"), username="ada")
    response = browser.get(landed)
    assert response.status_code == 403
    assert b"grace @ acme is connected, but" in response.content


def test_another_scope_is_asked_for_in_turn_and_neither_a_third_time(
    browser: Client, narrow: ConnectedAccount
) -> None:
    paths = ["/refused/source:w/", "/refused/team/", "/refused/source:w/", "/refused/team/"]
    assert [browser.get(path).status_code for path in paths] == [302, 302, 403, 403]


def test_another_account_is_asked_for_itself(
    browser: Client, narrow: ConnectedAccount, make_account: AccountFactory
) -> None:
    browser.get("/function/")
    other = make_account(granted_scope="profile", username="ada")
    browser.post("/ilert/choose/", {"account": other.pk})
    sent = browser.get("/function/")
    assert query_of(sent["Location"])["account"] == str(other.pk)


# What is left of the view


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("is_exempt", "groups"), [(False, 0), (True, 1)])
def test_what_the_view_did_is_rolled_back_as_for_any_error(
    browser: Client,
    narrow: ConnectedAccount,
    monkeypatch: pytest.MonkeyPatch,
    is_exempt: bool,
    groups: int,
) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    exempt = {"default"} if is_exempt else set()
    monkeypatch.setattr(refused_site.refused, "_non_atomic_requests", exempt, raising=False)
    assert is_sent_to_connect(browser.get("/refused/source:w/"))
    assert Group.objects.count() == groups


def test_a_view_outside_of_transactions_rolls_back_nothing_that_surrounds_it(
    browser: Client, narrow: ConnectedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the test case of a site does. The name that Django leaves on the view is no API."""
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    monkeypatch.setattr(refused_site.refused, "_non_atomic_requests", set(), raising=False)
    transaction.non_atomic_requests(refused_site.refused)
    assert is_sent_to_connect(browser.get("/refused/source:w/"))
    assert not transaction.get_rollback()


def test_a_transaction_of_who_calls_the_view_without_django_is_not_touched(
    narrow: ConnectedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)

    def view(request: HttpRequest) -> HttpResponse:
        raise IlertScopeError("refused", missing_scopes=["source:w"])

    request = RequestFactory().get("/")
    request.user, request.session = narrow.user, {}  # type: ignore[assignment]
    with transaction.atomic():
        assert is_sent_to_connect(ilert_account_required(view)(request))
        assert Group.objects.count() == 0


@pytest.mark.parametrize("server", [Client, AsyncClient])
def test_a_scope_error_that_names_no_scope_stays_an_error(
    user: User, narrow: ConnectedAccount, server: Callable[[], Any]
) -> None:
    client = server()
    client.force_login(user)
    get = client.get if server is Client else async_to_sync(client.get)
    with pytest.raises(IlertScopeError):
        get("/refused-without-a-scope/")


@each_kind
def test_who_has_revoked_the_app_at_ilert_reconnects_at_once_and_comes_back(
    browser: Client, expired_account: ConnectedAccount, ilert: StandIn, kind: str
) -> None:
    ilert.revoke_app("acme", "grace")
    sent = browser.get(f"/{kind}/?a=1")
    assert is_sent_to_connect(sent)
    assert query_of(sent["Location"])["account"] == str(expired_account.pk)
    assert go_through_ilert(browser, sent) == f"/{kind}/?a=1"


def test_a_program_is_told_of_a_revocation(
    browser: Client, expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.revoke_app("acme", "grace")
    response = browser.get("/function/", headers=JSON)
    assert (response.status_code, response.json()["error"]) == (401, "reconnect_required")


def test_the_end_of_another_accounts_grant_stays_an_error(
    browser: Client, account: ConnectedAccount
) -> None:
    with pytest.raises(ReconnectRequiredError):
        browser.get("/ended-elsewhere/")


def test_the_log_names_ilerts_correlation_id(
    browser: Client, narrow: ConnectedAccount, ilert: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "django_ilert_oauth"):
        browser.get("/function/")
    [text] = [message for message in caplog.messages if "lacks a scope" in message]
    assert text.startswith(f"Account {narrow.pk} lacks a scope that a view needs: ilert responded")
    assert "correlation ID" in text
