from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.test import Client, override_settings
from django.utils import timezone

from django_ilert_oauth import flows, testing
from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import (
    IlertHTTPError,
    IlertPlanError,
    IlertRejectedError,
    IlertScopeError,
    IlertUnavailableError,
    ReconnectRequiredError,
)
from django_ilert_oauth.flows._client import open_client
from django_ilert_oauth.models import AuthorizationRequest, ConnectedAccount, Reason, Status
from django_ilert_oauth.oauth import client, transport
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.session import IlertSession
from django_ilert_oauth.testing import FakeIlert, connected_account, fake_ilert
from ilert_standin.lists import LISTS
from tests.support import docs
from tests.support.other_callers import at_once

PATH = "/api/alerts"
ROOT = Path(__file__).parents[1]
LACKING: dict[str, Any] = {
    "ILERT_OAUTH_CLIENT_ID": "",
    "ILERT_OAUTH_CLIENT_SECRET": None,
    "ILERT_OAUTH_ENCRYPTION_KEYS": [],
}


@pytest.fixture
def ilert(db: None) -> Iterator[FakeIlert]:
    with fake_ilert() as ilert:
        yield ilert


@pytest.fixture
def account(user: User, ilert: FakeIlert) -> ConnectedAccount:
    return connected_account(user, scopes="profile alert:w")


@pytest.fixture
def session(account: ConnectedAccount) -> Iterator[IlertSession]:
    with IlertSession(account) as session:
        yield session


def paths(ilert: FakeIlert) -> list[str]:
    return [request.path.rpartition("/")[2] for request in ilert.requests]


def test_an_account_is_saved_connected_and_fresh_with_the_scopes_it_is_given(user: User) -> None:
    made = connected_account(user, scopes=["profile", "source:w"])
    account = ConnectedAccount.objects.get(pk=made.pk)
    assert str(account) == "grace @ acme"
    assert (account.user, account.status) == (user, Status.CONNECTED)
    assert account.is_fresh(timedelta(minutes=59))
    assert account.granted_scope == account.requested_scope == "profile source:w"
    assert connected_account(user, username="ada").has_scopes("profile")


def test_an_account_may_have_expired(user: User) -> None:
    account = connected_account(user, expires_in=-1)
    assert not account.is_fresh()
    assert account.refresh_token


@pytest.mark.parametrize(
    ("status", "reason", "has_tokens"),
    [
        (Status.CONNECTED, "", True),
        (Status.RECONNECT_REQUIRED, Reason.REVOKED_AT_ILERT, True),
        (Status.DISCONNECTED, Reason.USER, False),
        ("disconnected", Reason.USER, False),
    ],
)
def test_an_account_may_have_ended(user: User, status: str, reason: str, has_tokens: bool) -> None:
    account = connected_account(user, status=status)
    assert (account.status, account.reason) == (status, reason)
    assert bool(account.refresh_token) is bool(account.access_token) is has_tokens


def test_further_keywords_are_columns(user: User) -> None:
    now = timezone.now()
    account = connected_account(user, username="ada", email="ada@x.example", refreshed_at=now)
    assert (str(account), account.email, account.refreshed_at) == (
        "ada @ acme",
        "ada@x.example",
        now,
    )


def test_a_user_walks_to_ilert_and_back_in_one_line(
    ilert: FakeIlert, browser: Client, user: User
) -> None:
    response = ilert.authorize(browser, next="/somewhere/")
    assert (response.status_code, response.url) == (302, "/somewhere/")
    account = ConnectedAccount.objects.get(user=user)
    assert (str(account), account.granted_scope) == ("grace @ acme", "profile")
    assert paths(ilert) == ["token", "token_info", "current"]


def test_another_person_may_walk_and_allow_less(
    ilert: FakeIlert, browser: Client, settings: Any
) -> None:
    settings.ILERT_OAUTH_SCOPES = ["profile", "source:w"]
    ilert.tenant_id, ilert.username = "globex", "linus"
    ilert.authorize(browser, scopes="source:r")
    account = ConnectedAccount.objects.get()
    assert (str(account), account.granted_scope) == ("linus @ globex", "source:r")


def test_a_user_may_say_no(ilert: FakeIlert, browser: Client) -> None:
    assert ilert.authorize(browser, allow=False).url == "/ilert/connect/"
    assert not ConnectedAccount.objects.exists()
    assert ilert.requests == []


def test_a_walk_may_go_over_https(ilert: FakeIlert, browser: Client, settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True
    security = "django.middleware.security.SecurityMiddleware"
    settings.MIDDLEWARE = [security, *settings.MIDDLEWARE]
    ilert.authorize(browser, secure=True)
    assert ConnectedAccount.objects.exists()


def test_a_site_that_does_not_lead_to_ilert_is_told_so(ilert: FakeIlert) -> None:
    with pytest.raises(AssertionError, match="led to /login/ and not to ilert"):
        ilert.authorize(Client())


def test_a_site_that_leads_nowhere_is_told_so(ilert: FakeIlert, user: User) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(user)
    with pytest.raises(AssertionError, match=r"led to a page of its own \(403\) and not to ilert"):
        ilert.authorize(strict)


@pytest.fixture
def code_and_verifier(ilert: FakeIlert, browser: Client) -> tuple[Secret, Secret]:
    leaving: Any = browser.post("/ilert/connect/")
    code = ilert.callback_url(leaving.url).partition("code=")[2].partition("&")[0]
    return Secret(code), AuthorizationRequest.objects.get().code_verifier


def test_a_code_works_once(code_and_verifier: tuple[Secret, Secret]) -> None:
    with open_client(conf.client()) as wire:
        wire.exchange_code(*code_and_verifier)
        with pytest.raises(IlertRejectedError) as raised:
            wire.exchange_code(*code_and_verifier)
    assert raised.value.code == "invalid_grant"


def test_a_code_works_with_its_verifier_only(code_and_verifier: tuple[Secret, Secret]) -> None:
    code, verifier = code_and_verifier
    with open_client(conf.client()) as wire, pytest.raises(IlertRejectedError) as raised:
        wire.exchange_code(code, Secret(f"{verifier}x"))
    assert raised.value.code == "invalid_grant"


def test_an_expired_account_is_refreshed(user: User, ilert: FakeIlert) -> None:
    account = connected_account(user, expires_in=-1, scopes="source:w")
    before = account.refresh_token.reveal()
    ilert.expires_in = 600
    flows.get_access_token(account)
    assert account.is_fresh(timedelta(minutes=9))
    assert not account.is_fresh(timedelta(minutes=11))
    assert account.refresh_token == before
    assert account.granted_scope == "source:w"
    assert paths(ilert) == ["token"]


def test_refresh_tokens_may_rotate(account: ConnectedAccount, ilert: FakeIlert) -> None:
    ilert.rotates = True
    before = account.refresh_token
    flows.refresh(account)
    assert account.refresh_token != before
    account.refresh_token = before
    account.save()
    with pytest.raises(ReconnectRequiredError):
        flows.refresh(account, force=True)


def test_a_user_may_revoke_the_app_and_connect_again(
    session: IlertSession, ilert: FakeIlert, browser: Client
) -> None:
    ilert.revoke()
    assert session.get("/api/users/current").json()["username"] == "grace"
    with pytest.raises(ReconnectRequiredError):
        flows.refresh(session.account)
    assert session.account.reason == Reason.REVOKED_AT_ILERT
    ilert.authorize(browser)
    assert flows.refresh(ConnectedAccount.objects.get()).is_fresh()


def test_access_tokens_may_end_before_their_time(session: IlertSession, ilert: FakeIlert) -> None:
    ilert.expire_access_tokens()
    assert session.get("/api/users/current").status_code == 200
    assert paths(ilert) == ["current", "token", "current"]


def test_a_check_finds_what_the_account_says(user: User, ilert: FakeIlert) -> None:
    account = connected_account(user, username="ada", scopes="alert:r")
    flows.check(account)
    assert (str(account), account.granted_scope) == ("ada @ acme", "alert:r")


def test_disconnecting_ends_the_grant(
    account: ConnectedAccount, ilert: FakeIlert, django_capture_on_commit_callbacks: Any
) -> None:
    token = account.refresh_token
    with django_capture_on_commit_callbacks(execute=True):
        flows.disconnect(account)
    assert paths(ilert) == ["revoke"]
    with open_client(conf.client()) as wire, pytest.raises(IlertRejectedError):
        wire.refresh(token)


def test_tokens_of_a_sites_own_making_are_taken_as_well(user: User, ilert: FakeIlert) -> None:
    account = connected_account(
        user, scopes="source", access_token="mine", refresh_token="mine, too"
    )
    with IlertSession(account) as session:
        assert session.get("/api/users/current").json()["username"] == "grace"
        ilert.expire_access_tokens()
        assert session.get("/api/users/current").status_code == 200
    assert paths(ilert) == ["current", "current", "token", "current"]
    assert flows.check(account).granted_scope == "source"


def test_a_refresh_token_is_no_access_token(account: ConnectedAccount) -> None:
    account.access_token = account.refresh_token
    with open_client(conf.client()) as wire:
        assert wire.token_info(account.access_token).active is False


def test_without_a_token_nobody_is_let_in(ilert: FakeIlert) -> None:
    ilert.answer("GET", PATH, json=[])
    with transport.open_session() as anybody:
        assert anybody.get(conf.api_url + PATH).status_code == 401


@pytest.mark.parametrize(
    ("scope", "method", "path", "status"),
    [
        ("alert", "GET", "/api/alerts", 200),
        ("alert", "HEAD", "/api/alerts/7", 200),
        ("alert", "POST", "/api/alerts", 403),
        ("alert:w", "PUT", "/api/alerts/7", 200),
        ("alert:w", "DELETE", "/api/alerts/7", 403),
        ("alert:d", "DELETE", "/api/alerts/7", 200),
        ("source", "GET", "/api/alerts", 403),
        ("schedule", "GET", "/api/on-calls", 200),
        ("user", "GET", "/api/users/current", 403),
        ("profile", "GET", "/api/users", 403),
        ("profile", "GET", "/api/what-is-new", 200),
        ("profile", "GET", "/events", 200),
        ("wildcard:d", "DELETE", "/api/users/7", 200),
    ],
)
def test_a_token_is_good_for_what_it_was_granted(
    user: User, ilert: FakeIlert, scope: str, method: str, path: str, status: int
) -> None:
    ilert.answer(method, path, json=[])
    with IlertSession(connected_account(user, scopes=scope)) as session:
        response = session.request(method, path)
    assert response.status_code == status


# As ilert refuses


def error_of(session: IlertSession, method: str, path: str, **keywords: Any) -> Any:
    with pytest.raises(IlertHTTPError) as raised:
        session.request(method, path, **keywords).raise_for_status()
    return raised.value


@pytest.mark.parametrize(
    ("method", "missing"),
    [("GET", []), ("POST", ["alert:w"]), ("PUT", ["alert:w"]), ("DELETE", ["alert:d"])],
)
def test_a_scope_may_be_refused_although_it_was_granted(
    user: User, ilert: FakeIlert, method: str, missing: list[str]
) -> None:
    ilert.answer(method, PATH)
    ilert.refuse_scope("alert:w")
    with IlertSession(connected_account(user, scopes="wildcard:d")) as session:
        response = session.request(method, PATH)
    assert ([response.json()["scope"]] if response.content else []) == missing


@pytest.mark.parametrize(("granted", "status"), [("alert:d", 200), ("alert", 403)])
def test_a_scope_is_refused_until_a_user_grants_it(
    user: User, ilert: FakeIlert, browser: Client, granted: str, status: int
) -> None:
    ilert.answer("POST", PATH)
    ilert.refuse_scope("alert:w")
    ilert.authorize(browser, scopes=granted)
    with IlertSession(ConnectedAccount.objects.get()) as session:
        assert session.post(PATH).status_code == status


def test_a_user_who_was_sent_to_connect_walks_on_from_there(
    user: User, ilert: FakeIlert, browser: Client, settings: Any
) -> None:
    settings.ROOT_URLCONF = "tests.support.refused_site"
    account = connected_account(user, scopes="profile schedule")
    ilert.answer("GET", "/api/schedules", json=[{"id": 1}])
    ilert.refuse_scope("schedule")
    sent = browser.get("/function/")
    back = ilert.authorize(browser, link=sent["Location"])
    assert (back["Location"], browser.get("/function/").status_code) == ("/function/", 200)
    assert ConnectedAccount.objects.get() == account


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("include", [{}, {"include": "x"}])
def test_a_page_that_is_too_large_is_refused_in_ilerts_words(
    user: User, ilert: FakeIlert, name: str, include: dict[str, str]
) -> None:
    path, listing = f"/api/{name}".replace("{id}", "7"), LISTS[name]
    with_include = listing.largest_with_include if include else None
    largest = with_include or listing.largest_page
    words = f"'max-results' must not be above {largest}"
    words += ", when using 'include'" if with_include else ""
    ilert.answer("GET", path, json=[])
    with IlertSession(connected_account(user, scopes="wildcard")) as session:
        assert session.get(path, params={"max-results": str(largest), **include}).json() == []
        error = error_of(session, "GET", path, params={"max-results": str(largest + 1), **include})
    assert (error.response.status_code, error.message) == (400, words)


def test_a_list_learns_its_largest_page_from_that(user: User, ilert: FakeIlert) -> None:
    ilert.answer("GET", "/api/schedules", json=[{"id": 1}], times=1)
    with IlertSession(connected_account(user, scopes="schedule")) as session:
        assert list(session.list("/api/schedules")) == [{"id": 1}]
    assert [request.query["max-results"] for request in ilert.requests] == ["50", "20"]


def test_a_size_that_is_no_number_is_left_to_the_response(
    session: IlertSession, ilert: FakeIlert
) -> None:
    ilert.answer("GET", PATH, json=[])
    assert session.get(PATH, params={"max-results": "many"}).status_code == 200


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (402, IlertPlanError, "FEATURE_REQUIRED"),
        (404, IlertHTTPError, "NOT_FOUND"),
        (503, IlertHTTPError, ""),
    ],
)
def test_an_error_has_ilerts_body_and_a_correlation_id(
    session: IlertSession, ilert: FakeIlert, status: int, kind: type, code: str
) -> None:
    ilert.answer("GET", PATH, status=status)
    session.max_wait = 0
    error = error_of(session, "GET", PATH)
    assert (type(error), error.code) == (kind, code)
    assert error.correlation_id == error.response.headers["correlation-id"]


def test_an_error_may_have_no_body_or_one_of_the_tests_own(
    session: IlertSession, ilert: FakeIlert
) -> None:
    ilert.answer("GET", PATH, status=404, json=None)
    assert session.get(PATH).content == b""
    ilert.answer("GET", PATH, status=402, json={"code": "QUOTA_EXCEEDED", "message": "Enough"})
    error = error_of(session, "GET", PATH)
    assert (error.code, error.message) == ("QUOTA_EXCEEDED", "Enough")


@pytest.mark.parametrize("times", [None, 1])
def test_responses_wait_for_a_token_that_is_good(
    session: IlertSession, ilert: FakeIlert, times: int | None
) -> None:
    ilert.expire_access_tokens()
    ilert.answer("GET", PATH, json=[1], times=times)
    assert session.get(PATH).json() == [1]
    assert paths(ilert) == ["alerts", "token", "alerts"]


def test_everybody_has_a_number(user: User, ilert: FakeIlert) -> None:
    people = [("grace", "acme"), ("ada", "acme"), ("grace", "globex")]
    accounts = [connected_account(user, username=name, tenant_id=of) for name, of in people]
    with open_client(conf.client()) as wire:
        numbers = [wire.current_user(each.access_token).id for each in [*accounts, accounts[0]]]
    assert numbers == [1, 2, 3, 1]


def test_the_column_of_the_granted_scope_counts(user: User, ilert: FakeIlert) -> None:
    account = connected_account(user, granted_scope="alert", expires_in=-1)
    ilert.answer("GET", PATH, json=[])
    ilert.answer("POST", PATH)
    with IlertSession(account) as session:
        assert session.get(PATH).status_code == 200
        error = error_of(session, "POST", PATH, json={})
    assert (type(error), error.code) == (IlertScopeError, "OAUTH2_SCOPE_ERROR")
    assert error.missing_scopes == ["alert:w"]
    assert ConnectedAccount.objects.get().granted_scope == "alert"


def test_threads_get_each_response_once(account: ConnectedAccount, ilert: FakeIlert) -> None:
    for number in range(120):
        ilert.answer("GET", PATH, json=number, times=1)
    got: list[int] = []
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with IlertSession(account) as session:
            at_once(4, lambda _: got.extend([session.get(PATH).json() for _ in range(30)]))
    finally:
        sys.setswitchinterval(before)
    assert sorted(got) == list(range(120))


def test_a_response_stays_until_another_takes_its_place(
    session: IlertSession, ilert: FakeIlert
) -> None:
    ilert.answer("get", PATH, json=[1], headers={"X-Kind": "first"})
    assert [session.get(PATH).json() for _ in range(2)] == [[1], [1]]
    assert session.get(PATH).headers["X-Kind"] == "first"
    ilert.answer("GET", PATH, json=[2])
    assert session.get(PATH).json() == [2]


def test_responses_for_so_many_times_come_first_and_in_order(
    session: IlertSession, ilert: FakeIlert
) -> None:
    ilert.answer("POST", PATH, json="then")
    ilert.answer("POST", PATH, status=400, times=2)
    ilert.answer("POST", PATH, status=404, times=1)
    assert [session.post(PATH).status_code for _ in range(5)] == [400, 400, 404, 200, 200]


def test_a_list_pages_through_one_response(session: IlertSession, ilert: FakeIlert) -> None:
    ilert.answer("GET", PATH, json=[{"id": 1}, {"id": 2}])
    assert list(session.list(PATH, states="PENDING")) == [{"id": 1}, {"id": 2}]
    assert ilert.requests[0].query.dict() == {
        "start-index": "0",
        "max-results": "50",
        "states": "PENDING",
    }


@pytest.mark.parametrize(("header", "least"), [({}, 10), ({"Retry-After": "7"}, 7)])
def test_a_429_is_waited_out_without_sleeping(
    session: IlertSession, ilert: FakeIlert, header: dict[str, str], least: int
) -> None:
    ilert.answer("GET", PATH, json=[])
    ilert.answer("GET", PATH, status=429, headers=header, times=1)
    session.max_wait = 60
    assert session.get(PATH).status_code == 200
    assert len(ilert.waits) == 1
    assert least <= ilert.waits[0] <= 30


def test_a_timeout_is_what_requests_makes_of_it(session: IlertSession, ilert: FakeIlert) -> None:
    ilert.answer("GET", PATH, raises=requests.ReadTimeout)
    with pytest.raises(requests.Timeout):
        session.get(PATH)


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ({"status": 429}, "rate_limited"),
        ({"status": 503}, "server_error"),
        ({"raises": requests.Timeout}, "timeout"),
        ({"raises": requests.ConnectionError("lost")}, "unreachable"),
    ],
)
def test_the_token_endpoint_may_fail_and_recover(
    account: ConnectedAccount, ilert: FakeIlert, response: dict[str, Any], code: str
) -> None:
    ilert.answer("POST", client.TOKEN_PATH, times=1, **response)
    with pytest.raises(IlertUnavailableError) as raised:
        flows.refresh(account)
    assert raised.value.code == code
    assert flows.refresh(account).is_fresh()


def test_requests_are_kept_as_they_came(session: IlertSession, ilert: FakeIlert) -> None:
    ilert.answer("POST", PATH, status=201)
    session.post(PATH, params={"a": "b"}, json={"summary": "Fire"})
    (request,) = ilert.requests
    assert (request.method, request.path) == ("POST", PATH)
    assert (request.query.dict(), request.json) == ({"a": "b"}, {"summary": "Fire"})


def test_a_parameter_may_come_twice_or_be_empty(session: IlertSession, ilert: FakeIlert) -> None:
    ilert.answer("GET", PATH, json=[])
    session.get(PATH, params={"states": ["PENDING", "ACCEPTED"], "until": ""})
    (request,) = ilert.requests
    assert request.query.getlist("states") == ["PENDING", "ACCEPTED"]
    assert request.query["until"] == ""


def test_headers_are_kept_in_any_case(account: ConnectedAccount, ilert: FakeIlert) -> None:
    ilert.answer("GET", PATH, json=[])
    with IlertSession(account, team_context=7) as session:
        session.get(PATH, headers={"Cookie": "a=secret"})
    (request,) = ilert.requests
    assert request.headers["Team-Context"] == "7"
    assert not {"Authorization", "Cookie"} & request.headers.keys()


def test_json_may_have_been_written_by_the_caller(session: IlertSession, ilert: FakeIlert) -> None:
    ilert.answer("POST", PATH)
    for body in ('{"summary": "Fire"}', b'{"summary": "Fire"}', "{"):
        session.post(PATH, data=body, headers={"Content-Type": "application/json"})
    fire = {"summary": "Fire"}
    assert [request.json for request in ilert.requests] == [fire, fire, None]


def test_what_is_no_json_is_not_kept(session: IlertSession, ilert: FakeIlert) -> None:
    ilert.answer("POST", PATH)
    session.post(PATH, data={"summary": "Fire"})
    session.post(PATH, data=iter([b"{}"]), headers={"Content-Type": "application/json"})
    assert [request.json for request in ilert.requests] == [None, None]


def test_what_is_kept_shows_no_secret(
    account: ConnectedAccount, ilert: FakeIlert, browser: Client
) -> None:
    ilert.authorize(browser)
    flows.refresh(account, force=True)
    flows.check(account)
    secrets = [account.access_token, account.refresh_token, *conf.client_secret]
    plain = [*(secret.reveal() for secret in secrets), "code-", "mem"]
    shown = repr([ilert, ilert.requests, [vars(request) for request in ilert.requests]])
    assert [text for text in plain if text in shown] == []


def test_paths_are_those_below_the_api_s_address(
    user: User, ilert: FakeIlert, settings: Any
) -> None:
    settings.ILERT_OAUTH_API_URL = "https://gateway.example/ilert"
    ilert.answer("GET", PATH, json=[])
    with IlertSession(connected_account(user, scopes="alert")) as session:
        assert session.get(PATH).json() == []


def test_an_unexpected_request_fails_there_and_at_the_end(user: User) -> None:
    text = (
        r'No response is set for GET /api/alerts: set one with answer\("GET", "/api/alerts", json'
    )
    with pytest.raises(AssertionError, match=text), fake_ilert():
        session = IlertSession(connected_account(user))
        with pytest.raises(AssertionError, match=text):
            session.get(PATH, params={"summary": "private"})


def test_the_first_failure_is_the_one_that_is_seen(user: User) -> None:
    with pytest.raises(ValueError, match="first"), fake_ilert():
        with pytest.raises(AssertionError):
            IlertSession(connected_account(user)).get(PATH)
        raise ValueError("first")


@pytest.mark.parametrize(
    "url", ["https://other.example/a?secret=1", "http://127.0.0.1:9/", "https://api.ilert.com.x/"]
)
def test_nothing_reaches_the_network(url: str) -> None:
    with pytest.raises(AssertionError, match="No response is set") as raised, fake_ilert():
        anybody = transport.open_session()
        with pytest.raises(AssertionError):
            anybody.get(url)
    assert "secret" not in str(raised.value)


def test_no_adapter_of_a_session_leads_round_the_fake(account: ConnectedAccount) -> None:
    with IlertSession(account) as session:
        session.mount(conf.api_url, requests.adapters.HTTPAdapter())
        with fake_ilert() as ilert:
            ilert.answer("GET", PATH, json=["from the fake"])
            assert session.get(PATH).json() == ["from the fake"]


def test_commands_do_not_sleep_either(user: User, ilert: FakeIlert, transactional_db: None) -> None:
    connected_account(user, expires_in=60)
    ilert.answer("POST", client.TOKEN_PATH, status=429, headers={"Retry-After": "30"}, times=1)
    call_command("refresh_ilert_tokens", verbosity=0)
    assert ilert.waits == [30]
    assert paths(ilert) == ["token", "token"]


def test_an_adapter_that_was_mounted_before_comes_back_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = requests.adapters.HTTPAdapter()
    monkeypatch.setitem(transport.adapters, "https://api.ilert.com/api/", mine)
    with fake_ilert():
        assert mine not in transport.open_session().adapters.values()
    assert transport.adapters == {"https://api.ilert.com/api/": mine}


@override_settings(**LACKING)
def test_settings_that_are_lacking_are_supplied_for_so_long(user: User, browser: Client) -> None:
    with pytest.raises(ImproperlyConfigured):
        connected_account(user)
    with fake_ilert() as ilert:
        ilert.authorize(browser)
        connected_account(user, username="ada")
    for name in ("client_id", "client_secret", "encryption_keys"):
        with pytest.raises(ImproperlyConfigured):
            getattr(conf, name)


@override_settings(**LACKING)
def test_what_one_fake_encrypts_the_next_can_read(user: User) -> None:
    with fake_ilert():
        account = connected_account(user)
    with fake_ilert():
        assert account.access_token


def test_settings_that_are_there_stay(settings: Any) -> None:
    before = (conf.client_id, conf.client_secret, conf.encryption_keys)
    with fake_ilert():
        assert (conf.client_id, conf.client_secret, conf.encryption_keys) == before


@pytest.mark.usefixtures("ilert")
def test_the_fixture_supplies_what_is_lacking_by_pytest_djangos_own(
    settings: Any, request: pytest.FixtureRequest
) -> None:
    for name, value in LACKING.items():
        setattr(settings, name, value)
    ilert = request.getfixturevalue("fake_ilert")
    assert isinstance(ilert, FakeIlert)
    settings.ILERT_OAUTH_SCOPES = ["alert"]
    assert conf.client_id == "fake-client"


def run(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    environ |= {
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "tests.support.kit_site.settings",
    }
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)


def test_the_guides_tests_run_as_printed_with_the_fixture_that_is_there(tmp_path: Path) -> None:
    blocks = docs.blocks("python", "docs/guides/testing")
    (tmp_path / "test_site.py").write_text("\n\n".join(blocks))
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", ".", folder=tmp_path)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_a_test_that_reaches_for_what_is_not_there_fails(tmp_path: Path) -> None:
    first, *_others = docs.blocks("python", "docs/guides/testing")
    lines = [line for line in first.splitlines() if "fake_ilert.answer(" not in line]
    (tmp_path / "test_site.py").write_text("\n".join(lines))
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", ".", folder=tmp_path)
    assert "No response is set for GET /api/alert-sources" in done.stdout, done.stdout + done.stderr


def test_the_fixture_leaves_no_setting_behind_whoever_is_undone_first(tmp_path: Path) -> None:
    (tmp_path / "test_site.py").write_text(
        "def test_first(settings, fake_ilert):\n"
        "    assert settings.ILERT_OAUTH_CLIENT_ID\n"
        "    settings.ILERT_OAUTH_SCOPES = ['alert']\n\n"
        "def test_second(settings):\n"
        "    assert not settings.ILERT_OAUTH_CLIENT_ID\n"
    )
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    done = run("-m", "pytest", *options, ".", folder=tmp_path)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_fixture_works_without_pytest_django(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("import django\n\ndjango.setup()\n")
    (tmp_path / "test_site.py").write_text(
        "def test_site(fake_ilert):\n"
        "    from django.conf import settings\n"
        "    assert settings.ILERT_OAUTH_CLIENT_ID == 'fake-client'\n"
    )
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:django", "-p", "no:randomly"]
    done = run("-m", "pytest", *options, ".", folder=tmp_path)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_plugin_needs_neither_settings_nor_django_when_it_is_loaded(tmp_path: Path) -> None:
    program = (
        "import sys; import django_ilert_oauth.pytest_plugin; "
        "print(sorted(name for name in sys.modules if name.split('.')[0] == 'django'))"
    )
    assert run("-c", program, folder=tmp_path).stdout == "[]\n"


def test_the_kit_needs_no_test_library() -> None:
    folder = Path(testing.__file__).parent
    nodes = [node for path in folder.glob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    imported = {
        name.name.partition(".")[0]
        for node in nodes
        if isinstance(node, ast.Import)
        for name in node.names
    } | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not imported & {"pytest", "responses", "requests_mock", "httpx"}


def test_an_account_of_another_client_gets_a_response_too(
    user: User, ilert: FakeIlert, settings: Any
) -> None:
    elsewhere = {"CLIENT_ID": "x", "CLIENT_SECRET": "x", "API_URL": "https://api.example/v1"}
    settings.ILERT_OAUTH_CLIENTS = {"elsewhere": elsewhere}
    flows.refresh(connected_account(user, client="elsewhere"))
    assert [request.path for request in ilert.requests] == [client.TOKEN_PATH]
