from __future__ import annotations

import copy
import io
import logging
import pickle
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from django.utils import timezone

from django_ilert_oauth import __version__, flows
from django_ilert_oauth.exceptions import (
    EndpointMismatchError,
    IlertOAuthError,
    IlertUnavailableError,
    ReconnectRequiredError,
)
from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from django_ilert_oauth.oauth import client, transport
from django_ilert_oauth.session import IlertHTTPError, IlertSession
from ilert_standin import StandIn, serve
from ilert_standin.faults import Fault
from tests.conftest import AccountFactory
from tests.support.other_callers import at_once
from tests.support.scripted_adapter import Reply, ScriptedAdapter

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

ILERT = "https://ilert.test"
REFRESHED = {"access_token": "refreshed-token", "expires_in": 3600}

Script = Callable[..., ScriptedAdapter]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    def mount(*replies: Reply, at: str = ILERT + "/api/") -> ScriptedAdapter:
        adapter = ScriptedAdapter(*replies)
        monkeypatch.setitem(transport.adapters, at, adapter)
        return adapter

    return mount


@pytest.fixture
def far_account(make_account: AccountFactory, settings: Any) -> ConnectedAccount:
    """At an ilert that only a scripted adapter can reach."""
    settings.ILERT_OAUTH_API_URL = ILERT
    return make_account(access_token="first-token", refresh_token="refresh-token")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    taken: list[float] = []

    def sleep(seconds: float) -> None:
        taken.append(seconds)
        assert len(taken) < 100, "waits for ever"

    monkeypatch.setattr("django_ilert_oauth.api.retry.time.sleep", sleep)
    return taken


@pytest.fixture
def session(account: ConnectedAccount) -> Iterator[IlertSession]:
    with IlertSession(account) as session:
        yield session


@pytest.fixture
def far(far_account: ConnectedAccount) -> Iterator[IlertSession]:
    with IlertSession(far_account) as session:
        yield session


def stored_token(account: ConnectedAccount) -> str:
    return ConnectedAccount.objects.get(pk=account.pk).access_token.reveal()


def api_calls(ilert: StandIn) -> list[tuple[str, int]]:
    made = [request for request in ilert.requests if "/oauth2/" not in request.path]
    return [(request.path, request.status) for request in made]


@pytest.mark.parametrize("url", ["/api/users/current", "api/users/current"])
def test_a_relative_url_leads_to_the_accounts_ilert(session: IlertSession, url: str) -> None:
    assert session.get(url).json()["username"] == "grace"


def test_an_absolute_url_to_the_accounts_ilert_is_fine(
    session: IlertSession, account: ConnectedAccount
) -> None:
    assert session.get(account.api_url + "/api/users/current").status_code == 200


def test_the_token_and_the_request_for_json_travel_in_the_headers(
    far: IlertSession, script: Script
) -> None:
    adapter = script()
    far.get("/api/alerts")
    (seen,) = adapter.seen
    assert seen.headers["Authorization"] == "Bearer first-token"
    assert seen.headers["Accept"] == "application/json"


def test_a_fresh_token_is_used_as_it_is(session: IlertSession, ilert: StandIn) -> None:
    session.get("/api/users/current")
    assert ilert.token_requests == []


def test_an_expired_token_is_refreshed_before_it_is_used(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    with IlertSession(expired_account) as session:
        session.get("/api/users/current")
        session.get("/api/users/current")
    assert len(ilert.token_requests) == 1
    assert [status for _path, status in api_calls(ilert)] == [200, 200]


def test_a_token_that_expires_while_a_session_is_open_is_refreshed(
    session: IlertSession, ilert: StandIn
) -> None:
    session.get("/api/users/current")
    session.account.access_token_expires_at = timezone.now() - timedelta(seconds=1)
    session.account.save()
    session.get("/api/users/current")
    assert len(ilert.token_requests) == 1


def test_a_dead_grant_asks_for_a_reconnect_and_makes_no_request(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.revoke_app("acme", "grace")
    with IlertSession(expired_account) as session:
        for _ in range(2):
            with pytest.raises(ReconnectRequiredError):
                session.get("/api/users/current")
    assert len(ilert.token_requests) == 1
    assert api_calls(ilert) == []


def test_no_request_is_made_while_no_fresh_token_can_be_had(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.add_fault("token", Fault(503))
    with IlertSession(expired_account) as session, pytest.raises(IlertUnavailableError):
        session.get("/api/users/current")
    assert api_calls(ilert) == []


def test_after_a_401_come_one_refresh_and_one_more_request(
    session: IlertSession, ilert: StandIn
) -> None:
    ilert.expire_access_tokens()
    assert session.get("/api/users/current").json()["username"] == "grace"
    assert len(ilert.token_requests) == 1
    assert [status for _path, status in api_calls(ilert)] == [401, 200]


def test_a_401_to_the_new_token_is_final(session: IlertSession, ilert: StandIn) -> None:
    ilert.add_fault("users/current", Fault(401), times=None)
    assert session.get("/api/users/current").status_code == 401
    assert len(ilert.token_requests) == 1
    assert len(api_calls(ilert)) == 2


@pytest.mark.parametrize("seconds", [0, 60, 240])
def test_a_401_outranks_the_time_of_the_last_refresh(
    make_account: AccountFactory, ilert: StandIn, seconds: int
) -> None:
    account = make_account(refreshed_at=timezone.now() - timedelta(seconds=seconds))
    ilert.expire_access_tokens()
    with IlertSession(account) as session:
        assert session.get("/api/users/current").status_code == 200
    assert len(ilert.token_requests) == 1
    assert len(api_calls(ilert)) == 2


def test_a_refresh_that_fails_is_not_tried_again_by_force(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account()
    ilert.expire_access_tokens()
    ilert.add_fault("token", Fault(503), times=None)
    with IlertSession(account) as session:
        assert session.get("/api/users/current").status_code == 401
    assert len(ilert.token_requests) == 1


def test_after_a_401_comes_the_token_that_another_process_stored(
    session: IlertSession, ilert: StandIn
) -> None:
    elsewhere = ConnectedAccount.objects.get(pk=session.account.pk)
    ilert.expire_access_tokens()
    elsewhere.access_token = str(ilert.issue_tokens("acme", "grace")["access_token"])
    elsewhere.refreshed_at = timezone.now()
    elsewhere.save()
    assert session.get("/api/users/current").status_code == 200
    assert ilert.token_requests == []


def test_after_a_401_soon_after_a_refresh_comes_the_token_that_another_process_stored(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(refreshed_at=timezone.now() - timedelta(minutes=4))
    ilert.expire_access_tokens()
    flows.refresh(ConnectedAccount.objects.get(pk=account.pk), force=True)
    with IlertSession(account) as session:
        assert session.get("/api/users/current").status_code == 200
    assert len(ilert.token_requests) == 1


def test_a_401_stays_one_while_ilert_cannot_refresh(
    session: IlertSession, ilert: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    ilert.expire_access_tokens()
    ilert.add_fault("token", Fault(503))
    assert session.get("/api/users/current").status_code == 401
    assert len(api_calls(ilert)) == 1
    assert "server_error" in caplog.text


def test_a_401_shows_that_the_grant_is_gone(session: IlertSession, ilert: StandIn) -> None:
    ilert.expire_access_tokens()
    ilert.revoke_app("acme", "grace")
    assert session.get("/api/users/current").status_code == 401
    session.account.refresh_from_db()
    assert session.account.status == Status.RECONNECT_REQUIRED
    assert session.account.reason == Reason.REVOKED_AT_ILERT


def test_a_body_in_memory_is_sent_again(session: IlertSession, ilert: StandIn) -> None:
    ilert.expire_access_tokens()
    source: dict[str, Any] = {
        "name": "Lift",
        "integrationType": "API",
        "escalationPolicy": {"id": 1},
    }
    response = session.post("/api/alert-sources", json=source)
    assert (response.status_code, response.json()["name"]) == (201, "Lift")


def chunks() -> Iterator[bytes]:
    yield b"first "
    yield b"second"


@pytest.mark.parametrize("body", [chunks, lambda: io.BytesIO(b"first second")])
@pytest.mark.parametrize("status", [401, 429, 503])
def test_a_stream_is_not_sent_again(
    far: IlertSession, script: Script, pauses: list[float], body: Callable[[], Any], status: int
) -> None:
    script(Reply(body=REFRESHED), at=ILERT + client.TOKEN_PATH)
    adapter = script(Reply(status, headers={"Retry-After": "1"}))
    assert far.put("/api/import", data=body()).status_code == status
    assert [seen.body for seen in adapter.seen] == [b"first second"]
    assert pauses == []


def test_a_401_to_a_stream_refreshes_the_token_for_what_comes_next(
    far: IlertSession, script: Script
) -> None:
    script(Reply(body=REFRESHED), at=ILERT + client.TOKEN_PATH)
    adapter = script(Reply(401), Reply(201))
    assert far.post("/api/import", data=chunks()).status_code == 401
    assert far.post("/api/import", data=chunks()).status_code == 201
    assert adapter.seen[1].headers["Authorization"] == "Bearer refreshed-token"


@pytest.mark.parametrize("status", [401, 429])
def test_a_file_is_sent_completely_or_not_again(
    far: IlertSession, script: Script, pauses: list[float], status: int
) -> None:
    script(Reply(body=REFRESHED), at=ILERT + client.TOKEN_PATH)
    adapter = script(Reply(status), Reply())
    far.post("/api/import", files={"file": io.BytesIO(b"the complete file")})
    assert all(b"the complete file" in seen.body for seen in adapter.seen)


def test_a_stream_is_not_sent_again_after_a_redirect(far: IlertSession, script: Script) -> None:
    script(Reply(body=REFRESHED), at=ILERT + client.TOKEN_PATH)
    adapter = script(Reply(303, headers={"Location": "/api/imported"}), Reply(401))
    far.post("/api/import", data=chunks())
    posted = [seen.body for seen in adapter.seen if seen.method == "POST"]
    assert posted == [b"first second"]


def test_a_429_is_waited_out_as_long_as_ilert_asks(
    far: IlertSession, script: Script, pauses: list[float]
) -> None:
    adapter = script(Reply(429, headers={"Retry-After": "4"}), Reply(body="done"))
    assert far.get("/api/alerts").json() == "done"
    assert pauses == [4]
    assert len(adapter.seen) == 2


def test_a_429_without_a_time_is_waited_out_for_10_to_30_seconds(
    far: IlertSession, script: Script, pauses: list[float]
) -> None:
    script(*[Reply(429)] * 20, Reply(body="done"))
    far.max_wait = 1000
    assert far.get("/api/alerts").json() == "done"
    assert len(pauses) == 20
    assert all(10 <= pause <= 30 for pause in pauses)
    assert len(set(pauses)) > 1


@pytest.mark.parametrize(
    ("asked", "max_wait", "expected"),
    [("61", 60, []), ("60", 60, [60]), ("30", 60, [30, 30]), ("25", 10, []), ("3", 10, [3, 3, 3])],
)
def test_waiting_ends_after_max_wait(
    far: IlertSession,
    script: Script,
    pauses: list[float],
    asked: str,
    max_wait: int,
    expected: list[float],
) -> None:
    script(Reply(429, headers={"Retry-After": asked}))
    far.max_wait = max_wait
    assert far.get("/api/alerts").status_code == 429
    assert pauses == expected


@pytest.mark.parametrize(
    ("max_wait", "pick", "expected"),
    [(9, min, []), (10, max, [10]), (20, min, [10, 10]), (25, max, [25]), (45, max, [30, 15])],
)
def test_a_429_without_a_time_is_waited_out_wherever_ten_seconds_are_left(
    far: IlertSession,
    script: Script,
    pauses: list[float],
    monkeypatch: pytest.MonkeyPatch,
    max_wait: int,
    pick: Callable[..., float],
    expected: list[float],
) -> None:
    monkeypatch.setattr("random.uniform", pick)
    script(Reply(429))
    far.max_wait = max_wait
    assert far.get("/api/alerts").status_code == 429
    assert pauses == expected


@pytest.mark.parametrize("asked", ["0", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_waiting_ends_where_ilert_asks_for_no_time_at_all(
    far: IlertSession, script: Script, pauses: list[float], asked: str
) -> None:
    script(Reply(429, headers={"Retry-After": asked}))
    assert far.get("/api/alerts").status_code == 429
    assert 0 < sum(pauses) <= 5


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "20"}])
def test_a_web_request_does_not_hold_its_thread_for_a_long_wait(
    far: IlertSession, script: Script, pauses: list[float], headers: dict[str, str]
) -> None:
    script(Reply(429, headers=headers))
    assert far.get("/api/alerts").status_code == 429
    assert pauses == []


@pytest.mark.parametrize(
    ("method", "status"),
    [("GET", 502), ("HEAD", 503), ("OPTIONS", 504), ("PUT", 502), ("DELETE", 503)],
)
def test_a_gateway_error_is_waited_out_for_idempotent_methods(
    far: IlertSession, script: Script, pauses: list[float], method: str, status: int
) -> None:
    adapter = script(Reply(status), Reply(status), Reply(body="done"))
    assert far.request(method, "/api/alerts/1", json={"a": 1}).status_code == 200
    assert [seen.body for seen in adapter.seen] == [b'{"a": 1}'] * 3
    assert 0.5 <= pauses[0] <= 1 <= pauses[1] <= 2


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_gateway_error_is_final_for_other_methods(
    far: IlertSession, script: Script, pauses: list[float], method: str, status: int
) -> None:
    adapter = script(Reply(status, headers={"Retry-After": "1"}))
    assert far.request(method, "/api/alerts").status_code == status
    assert len(adapter.seen) == 1
    assert pauses == []


@pytest.mark.parametrize("status", [500, 501, 400, 404])
def test_other_errors_are_final(
    far: IlertSession, script: Script, pauses: list[float], status: int
) -> None:
    adapter = script(Reply(status, headers={"Retry-After": "1"}))
    assert far.get("/api/alerts").status_code == status
    assert len(adapter.seen) == 1


def test_a_gateway_error_that_stays_is_handed_on_after_three_retries(
    far: IlertSession, script: Script, pauses: list[float]
) -> None:
    adapter = script(Reply(503))
    far.max_wait = 1000
    assert far.get("/api/alerts").status_code == 503
    assert len(adapter.seen) == 4
    assert len(pauses) == 3


@pytest.mark.parametrize(("max_wait", "expected"), [(60, [40]), (30, [])])
def test_a_gateway_error_is_waited_out_as_long_as_asked_within_max_wait(
    far: IlertSession, script: Script, pauses: list[float], max_wait: int, expected: list[float]
) -> None:
    script(Reply(503, headers={"Retry-After": "40"}))
    far.max_wait = max_wait
    far.get("/api/alerts")
    assert pauses == expected


def test_max_wait_is_for_all_waits_of_a_request(
    far: IlertSession, script: Script, pauses: list[float]
) -> None:
    script(Reply(body=REFRESHED), at=ILERT + client.TOKEN_PATH)
    wait = {"Retry-After": "25"}
    script(Reply(429, headers=wait), Reply(401), Reply(503, headers=wait), Reply(429, headers=wait))
    far.max_wait = 60
    assert far.get("/api/alerts").status_code == 429
    assert pauses == [25, 25]


@pytest.mark.parametrize("status", [429, 503])
def test_each_wait_is_logged(
    far_account: ConnectedAccount,
    script: Script,
    pauses: list[float],
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    script(Reply(status, headers={"Retry-After": "4", "correlation-id": "5f3a-17"}), Reply())
    with caplog.at_level(logging.WARNING), IlertSession(far_account) as session:
        session.get("/api/alerts?summary=private")
    assert caplog.messages == [
        f"Account {far_account.pk}: ilert responded with {status} to GET /api/alerts "
        "(correlation ID 5f3a-17): waiting 4.0 s"
    ]


def test_requests_have_the_timeouts_of_the_settings(
    far: IlertSession, script: Script, settings: Any
) -> None:
    adapter = script()
    settings.ILERT_OAUTH_TIMEOUT = (2, 3)
    far.get("/api/alerts")
    far.get("/api/alerts", timeout=9)
    assert [seen.timeout for seen in adapter.seen] == [(2, 3), 9]


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/api/alerts",
        "http://ilert.test/api/alerts",
        "https://ilert.test:8443/api/alerts",
        "//evil.example/api/alerts",
        "https://ilert.test@evil.example/api/alerts",
        "https://ilert.test.evil.example/api/alerts",
        "https://evil.example\\@ilert.test/api/alerts",
        "//evil.example\\@ilert.test/api/alerts",
        "ftp://ilert.test/api/alerts",
    ],
)
def test_the_token_is_sent_nowhere_else(far: IlertSession, script: Script, url: str) -> None:
    anywhere = [script(at="https://"), script(at="http://")]
    with pytest.raises(EndpointMismatchError):
        far.get(url)
    assert [adapter.seen for adapter in anywhere] == [[], []]


@pytest.mark.parametrize("auth", [("user", "password"), lambda request: request])
def test_auth_of_a_call_skips_no_check_of_the_address(
    far: IlertSession, script: Script, auth: Any
) -> None:
    adapter = script(at="https://")
    with pytest.raises(EndpointMismatchError):
        far.get("https://evil.example/api/alerts", auth=auth)
    assert adapter.seen == []


@pytest.mark.parametrize("auth", [("user", "password"), lambda request: request])
def test_auth_of_a_call_does_not_replace_the_token(
    far: IlertSession, script: Script, auth: Any
) -> None:
    adapter = script()
    far.get("/api/alerts", auth=auth)
    assert adapter.seen[0].headers["Authorization"] == "Bearer first-token"


def test_a_prepared_request_is_sent_nowhere_else_either(far: IlertSession, script: Script) -> None:
    adapter = script(at="https://")
    request = requests.Request("POST", "https://evil.example/", data="body").prepare()
    with pytest.raises(EndpointMismatchError):
        far.send(request)
    assert adapter.seen == []


def test_a_request_that_was_prepared_elsewhere_gets_the_token_at_ilert(
    far: IlertSession, script: Script
) -> None:
    adapter = script()
    far.send(requests.Request("GET", ILERT + "/api/alerts").prepare())
    assert adapter.seen[0].headers["Authorization"] == "Bearer first-token"


@pytest.mark.parametrize(
    "url", ["https://ILERT.test:443/api/alerts", "/api/alerts/a..b", "/api/alerts?name=../../x"]
)
def test_an_address_of_ilert_may_be_spelt_in_other_ways(
    far: IlertSession, script: Script, url: str
) -> None:
    adapter = script(at="https://")
    assert far.get(url).status_code == 200
    assert adapter.seen[0].headers["Authorization"] == "Bearer first-token"


def test_an_account_of_another_ilert_makes_no_request(
    session: IlertSession, ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_API_URL = ILERT
    with pytest.raises(EndpointMismatchError):
        session.get("/api/users/current")
    assert ilert.requests == []


def test_the_token_is_not_sent_over_plain_http(
    make_account: AccountFactory, script: Script, settings: Any
) -> None:
    settings.ILERT_OAUTH_API_URL = "http://ilert.test"
    adapter = script(at="http://ilert.test/")
    with IlertSession(make_account()) as session, pytest.raises(IlertOAuthError) as raised:
        session.get("/api/alerts")
    assert raised.value.code == "insecure_endpoint"
    assert adapter.seen == []


ELSEWHERE = ["https://other.test/", "http://ilert.test/", "https://ilert.test:8443/"]


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("body", [b"private body", lambda: io.BytesIO(b"private body")])
def test_nothing_of_the_request_follows_a_redirect_elsewhere(
    far_account: ConnectedAccount, script: Script, elsewhere: str, status: int, body: Any
) -> None:
    script(Reply(status, headers={"Location": elsewhere + "api/"}))
    adapter = script(at=elsewhere)
    with IlertSession(far_account, team_context=7) as session:
        session.cookies.set("private", "cookie")
        data = body() if callable(body) else body
        response = session.post("/api/alerts", data=data, headers={"X-Private": "header"})
    (seen,) = adapter.seen
    assert (seen.headers, seen.body) == ({}, b"")
    assert not response.request.headers


@pytest.mark.parametrize("status", [307, 308])
def test_the_body_follows_a_redirect_within_ilert(
    far_account: ConnectedAccount, script: Script, status: int
) -> None:
    adapter = script(Reply(status, headers={"Location": "/api/there"}), Reply())
    with IlertSession(far_account, team_context=7) as session:
        session.post("/api/alerts", data=b"body")
    assert [seen.body for seen in adapter.seen] == [b"body", b"body"]
    assert adapter.seen[1].headers["team-context"] == "7"


@pytest.mark.parametrize("back", [ILERT + "/api/alerts/1", "https://ILERT.test/api/"])
def test_a_redirect_that_comes_back_from_elsewhere_is_not_followed(
    far: IlertSession, script: Script, back: str
) -> None:
    elsewhere = script(Reply(302, headers={"Location": back}), at="https://other.test/")
    adapter = script(Reply(307, headers={"Location": "https://other.test/"}))
    with pytest.raises(EndpointMismatchError):
        far.delete("/api/alerts")
    assert (len(adapter.seen), len(elsewhere.seen)) == (1, 1)


OUTSIDE = [
    "https://gateway.test/tenant-b/api",
    "https://gateway.test/tenant-abc/api",
    "https://gateway.test/",
    "https://gateway.test/tenant-a/../tenant-b/api",
    "https://gateway.test/tenant-a/%2e%2e/tenant-b/api",
    "https://gateway.test/tenant-a/.%2E%2ftenant-b/api",
    "https://gateway.test/tenant-a/..%2Ftenant-b/api",
    "https://gateway.test/tenant-a/..%5ctenant-b/api",
    "https://gateway.test/tenant-a/..\\tenant-b/api",
    "https://gateway.test/tenant-a/..;v=1/tenant-b/api",
    "https://gateway.test/tenant-a/..%09/tenant-b/api",
    "https://gateway.test/tenant-a/..%00/tenant-b/api",
    "https://gateway.test/tenant-a/%252e%252e/tenant-b/api",
    "https://gateway.test/tenant-a/api/..%2f..%2f..%2ftenant-b",
    "//gateway.test/tenant-b/api",
]


@pytest.fixture
def behind_gateway(make_account: AccountFactory, settings: Any) -> Iterator[IlertSession]:
    """At one of several ilerts."""
    settings.ILERT_OAUTH_API_URL = "https://gateway.test/tenant-a"
    with IlertSession(make_account(access_token="first-token")) as session:
        yield session


@pytest.mark.parametrize(
    "url", [*OUTSIDE, "/../tenant-b/api", "../tenant-b/api", "/%2e%2e/tenant-b/api"]
)
def test_the_token_stays_below_the_path_of_the_api_url(
    behind_gateway: IlertSession, script: Script, url: str
) -> None:
    adapter = script(at="https://")
    with pytest.raises(EndpointMismatchError):
        behind_gateway.get(url)
    assert adapter.seen == []


def test_a_path_that_is_encoded_over_and_over_is_refused(
    behind_gateway: IlertSession, script: Script
) -> None:
    """Decoding it to its end would take hours."""
    adapter = script(at="https://")
    with pytest.raises(EndpointMismatchError):
        behind_gateway.get("/%" + "25" * 10_000)
    assert adapter.seen == []


def test_an_account_that_has_moved_gets_no_token_that_was_read_before(
    behind_gateway: IlertSession, script: Script
) -> None:
    """As by someone who can write its row, and a reload of it."""
    adapter = script(Reply(), Reply(), at="https://")
    behind_gateway.get("/api/alerts")
    behind_gateway.account.api_url = "https://evil.test"
    with pytest.raises(EndpointMismatchError):
        behind_gateway.get("/api/alerts")
    assert len(adapter.seen) == 1


@pytest.mark.parametrize("location", [*OUTSIDE, "/tenant-b/api", "../../tenant-b/api"])
def test_a_redirect_out_of_the_path_of_the_api_url_loses_the_token(
    behind_gateway: IlertSession, script: Script, location: str
) -> None:
    adapter = script(Reply(307, headers={"Location": location}), Reply(), at="https://")
    behind_gateway.post("/api/alerts", data="private body")
    first, second = adapter.seen
    assert first.headers["Authorization"] == "Bearer first-token"
    assert (second.headers, second.body) == ({}, b"")


@pytest.mark.parametrize("location", ["/tenant-a/api/there", "there", "/tenant-a"])
def test_a_redirect_below_the_path_of_the_api_url_keeps_the_token(
    behind_gateway: IlertSession, script: Script, location: str
) -> None:
    adapter = script(Reply(302, headers={"Location": location}), Reply(), at="https://")
    behind_gateway.get("/api/alerts")
    assert adapter.seen[1].headers["Authorization"] == "Bearer first-token"


def test_a_redirect_from_http_to_https_loses_the_token(
    make_account: AccountFactory, script: Script, settings: Any
) -> None:
    settings.ILERT_OAUTH_API_URL = "http://localhost"
    script(Reply(301, headers={"Location": "https://localhost/api/"}), at="http://localhost/")
    adapter = script(at="https://localhost/")
    with IlertSession(make_account()) as session:
        session.get("/api/alerts")
    assert ["Authorization" in seen.headers for seen in adapter.seen] == [False]


@pytest.mark.parametrize("proxy", ["", "http://user:password@127.0.0.1:9"])
def test_a_redirect_to_another_port_of_loopback_loses_the_token(
    session: IlertSession, ilert: StandIn, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    arrived: list[dict[str, Any]] = []

    def elsewhere(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        arrived.append(dict(environ))
        start_response("204 No Content", [])
        return []

    with serve(elsewhere) as url:
        ilert.add_fault("users/current", Fault(302, headers={"Location": url + "/taken"}))
        assert session.get("/api/users/current").status_code == 204
    assert [environ["PATH_INFO"] for environ in arrived] == ["/taken"]
    assert not {"HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION"} & arrived[0].keys()


def test_a_redirect_within_ilert_keeps_the_token(session: IlertSession, ilert: StandIn) -> None:
    ilert.add_fault("alert-sources", Fault(302, headers={"Location": "/api/users/current"}))
    assert session.get("/api/alert-sources").json()["username"] == "grace"


def handed_out(response: requests.Response) -> bytes:
    requests_made = [response.request, *(each.request for each in response.history)]
    return (
        pickle.dumps([response, requests_made])
        + repr([dict(request.headers) for request in requests_made]).encode()
    )


@pytest.mark.parametrize(
    "replies",
    [[Reply(200)], [Reply(404)], [Reply(302, headers={"Location": "/api/there"}), Reply(200)]],
)
def test_what_is_handed_out_holds_no_token(
    far: IlertSession, script: Script, replies: list[Reply]
) -> None:
    adapter = script(*replies)
    response = far.get("/api/alerts")
    assert [seen.headers["Authorization"] for seen in adapter.seen] == ["Bearer first-token"] * len(
        replies
    )
    assert b"first-token" not in handed_out(response)


@pytest.mark.parametrize("refuse", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_session_is_neither_pickled_nor_copied(
    session: IlertSession, refuse: Callable[[object], object]
) -> None:
    with pytest.raises(TypeError, match="primary key"):
        refuse(session)


def test_hooks_see_the_last_response_and_no_token(
    far: IlertSession, script: Script, pauses: list[float]
) -> None:
    script(Reply(503), Reply(429), Reply(body="done"))
    seen: list[tuple[int, bool]] = []

    def look(response: requests.Response, **kwargs: Any) -> None:
        seen.append((response.status_code, "Authorization" in response.request.headers))

    far.max_wait = 60
    far.hooks["response"].append(look)
    far.get("/api/alerts")
    assert seen == [(200, False)]


def test_a_hook_may_raise_for_every_error(
    far: IlertSession, script: Script, pauses: list[float]
) -> None:
    script(Reply(503), Reply(404, body={"message": "Not here"}))
    far.hooks["response"].append(lambda response, **kwargs: response.raise_for_status())
    with pytest.raises(IlertHTTPError) as raised:
        far.get("/api/alerts")
    assert raised.value.message == "Not here"


def test_adapters_are_mounted_as_on_any_session(far: IlertSession) -> None:
    adapter = ScriptedAdapter(Reply(body="mine"))
    far.mount(ILERT + "/api/alerts", adapter)
    assert far.get("/api/alerts").json() == "mine"
    assert adapter.seen[0].headers["Authorization"] == "Bearer first-token"


@pytest.mark.parametrize("status", [200, 404])
def test_an_adapter_may_respond_with_a_kind_of_its_own(
    far: IlertSession, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    class OwnResponse(requests.Response):
        pass

    class Own(ScriptedAdapter):
        """Of a tool that records requests, say."""

        def build_response(self, request: Any, raw: Any) -> Any:
            response = super().build_response(request, raw)
            response.__class__ = OwnResponse
            return response

    monkeypatch.setitem(transport.adapters, ILERT, Own(Reply(status)))
    assert type(far.get("/api/alerts")) is OwnResponse


@pytest.mark.parametrize("url", ["/api/alerts", b"/api/alerts", ILERT + "/api/alerts"])
def test_a_request_may_be_prepared_before_it_is_sent(
    far: IlertSession, script: Script, settings: Any, url: Any
) -> None:
    settings.ILERT_OAUTH_TIMEOUT = (2, 3)
    adapter = script()
    prepared = far.prepare_request(requests.Request("POST", url, json={"a": 1}))
    assert "Authorization" not in prepared.headers
    far.send(prepared)
    (seen,) = adapter.seen
    assert (seen.method, seen.url, seen.body) == ("POST", ILERT + "/api/alerts", b'{"a": 1}')
    assert (seen.headers["Authorization"], seen.timeout) == ("Bearer first-token", (2, 3))


def test_no_token_is_printed_where_the_site_debugs_http(
    session: IlertSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("http.client.HTTPConnection.debuglevel", 1)
    assert session.get("/api/users/current").status_code == 200
    assert capsys.readouterr().out == ""


def test_a_request_that_was_prepared_stays_on_this_machine_too(
    session: IlertSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    prepared = session.prepare_request(requests.Request("GET", "/api/users/current"))
    assert session.send(prepared).status_code == 200
    assert session.send(prepared, proxies=None).status_code == 200


@pytest.fixture
def netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hosts = ("ilert.test", "other.test")
    lines = [f"machine {host} login grace password hunter2\n" for host in hosts]
    (tmp_path / "netrc").write_text("".join(lines))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.usefixtures("netrc")
@pytest.mark.parametrize("location", ["/api/there", "https://other.test/"])
def test_no_password_from_netrc_is_sent_or_handed_out(
    far: IlertSession, script: Script, location: str
) -> None:
    adapter = script(Reply(302, headers={"Location": location}), Reply(), at="https://")
    response = far.get("/api/alerts")
    sent = [seen.headers.get("Authorization", "Bearer first-token") for seen in adapter.seen]
    assert sent == ["Bearer first-token"] * 2
    handed_out = [response.request, *(each.request for each in response.history)]
    assert ["Authorization" in request.headers for request in handed_out] == [False, False]


@pytest.mark.parametrize("team", [7, "7"])
def test_a_team_can_be_named_for_all_requests(
    far_account: ConnectedAccount, script: Script, team: int | str
) -> None:
    adapter = script()
    with IlertSession(far_account, team_context=team) as session:
        session.get("/api/alerts")
    headers = adapter.seen[0].headers
    assert (headers["team-context"], headers["x-team-context"]) == ("7", "7")


def test_no_team_is_named_unasked(far: IlertSession, script: Script) -> None:
    adapter = script()
    far.get("/api/alerts")
    assert not {"team-context", "x-team-context"} & adapter.seen[0].headers.keys()


def test_each_request_names_the_program(far: IlertSession, script: Script) -> None:
    adapter = script()
    far.get("/api/alerts")
    assert adapter.seen[0].headers["User-Agent"] == f"django-ilert-oauth/{__version__}"


def test_a_session_keeps_its_account(session: IlertSession, account: ConnectedAccount) -> None:
    assert session.account is account
    with pytest.raises(AttributeError):
        session.account = account  # type: ignore[misc]


@pytest.mark.django_db(transaction=True)
def test_threads_that_share_a_session_refresh_once(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.options.rotate = True
    ilert.options.latency = 0.3
    with IlertSession(expired_account) as session:
        names = at_once(10, lambda _number: session.get("/api/users/current").json()["username"])
    assert names == ["grace"] * 10
    assert len(ilert.token_requests) == 1
    assert expired_account.access_token == stored_token(expired_account)


@pytest.mark.django_db(transaction=True)
def test_threads_that_are_all_refused_refresh_once(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.options.rotate = True
    ilert.options.latency = 0.3
    ilert.expire_access_tokens()
    with IlertSession(account) as session:
        statuses = at_once(10, lambda _number: session.get("/api/users/current").status_code)
    assert statuses == [200] * 10
    assert len(ilert.token_requests) == 1


@pytest.mark.parametrize("floor", [timedelta(0), timedelta(minutes=5)])
def test_after_a_401_comes_the_token_that_another_thread_got_meanwhile(
    session: IlertSession, ilert: StandIn, settings: Any, floor: timedelta
) -> None:
    settings.ILERT_OAUTH_MIN_REFRESH_INTERVAL = floor

    class Late(ScriptedAdapter):
        def send(self, request: Any, *args: Any, **kwargs: Any) -> requests.Response:
            if not self.seen:
                flows.refresh(session.account)
            return super().send(request, *args, **kwargs)

    late = Late(Reply(401), Reply(body="done"))
    session.mount(session.account.api_url + "/api/alerts", late)
    assert session.get("/api/alerts").json() == "done"
    assert len(ilert.token_requests) == 1


def test_a_token_that_another_thread_has_replaced_meanwhile_is_not_kept(
    far: IlertSession, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = script()
    get_access_token = flows.get_access_token

    def replaced_meanwhile(account: ConnectedAccount) -> str:
        token = get_access_token(account)
        account.access_token = "second-token"
        return token

    monkeypatch.setattr(flows, "get_access_token", replaced_meanwhile)
    for _ in range(2):
        far.get("/api/alerts")
    sent = [seen.headers["Authorization"] for seen in adapter.seen]
    assert sent == ["Bearer first-token", "Bearer second-token"]


def test_a_fresh_token_is_decrypted_once(
    far: IlertSession, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script()
    asked: list[ConnectedAccount] = []
    get_access_token = flows.get_access_token

    def counted(account: ConnectedAccount) -> str:
        asked.append(account)
        return get_access_token(account)

    monkeypatch.setattr(flows, "get_access_token", counted)
    for _ in range(3):
        far.get("/api/alerts")
    assert asked == [far.account]


def test_a_401_after_the_account_was_disconnected_elsewhere_is_the_callers(
    session: IlertSession, ilert: StandIn
) -> None:
    flows.disconnect(ConnectedAccount.objects.get(pk=session.account.pk))
    ilert.expire_access_tokens()
    assert session.get("/api/users/current").status_code == 401


@pytest.mark.parametrize("path", ["/api/users/current", "/api/alerts?link=https://shop.example/"])
def test_the_path_of_the_api_s_address_is_kept(
    make_account: AccountFactory, monkeypatch: pytest.MonkeyPatch, settings: Any, path: str
) -> None:
    settings.ILERT_OAUTH_API_URL = "https://gateway.example/ilert"
    adapter = ScriptedAdapter(Reply())
    monkeypatch.setitem(transport.adapters, "https://gateway.example", adapter)
    with IlertSession(make_account()) as session:
        session.get(path)
    assert adapter.seen[0].url == f"https://gateway.example/ilert{path}"
