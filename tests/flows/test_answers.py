"""The table of answers: what each does to an account, and to an attempt to connect one."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest
from django.test import RequestFactory
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import (
    IlertOAuthError,
    IlertRejectedError,
    IlertUnavailableError,
    ReconnectRequiredError,
)
from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from tests.support.other_callers import stored
from tests.support.raw_server import RawReply, RawServer, raw_server, reset, saying

pytestmark = pytest.mark.django_db(transaction=True)


def answer(status: int, body: object = b"", **headers: str) -> RawReply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {"Content-Length": str(len(content)), "Connection": "close"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in named.items())]
    return saying("\r\n".join([*lines, "", ""]).encode() + content)


def hang(_connection: socket.socket, server: RawServer) -> None:
    server.over.wait(10)


def reset_in_the_body(connection: socket.socket, _server: RawServer) -> None:
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"access_token": "x')
    time.sleep(0.05)
    reset(connection)


def end_in_the_body(connection: socket.socket, _server: RawServer) -> None:
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"access_token": "x')


def end_at_once(_connection: socket.socket, _server: RawServer) -> None:
    pass


@dataclass(frozen=True)
class Case:
    reply: RawReply
    code: str
    error: type[IlertOAuthError] = IlertUnavailableError
    retry_after: tuple[float, float] | None = None


HTML = b"<!doctype html><title>Down for maintenance</title>"
UNUSABLE = "unusable_response"
LIMITED = "rate_limited"


def refusal(code: str, status: int = 400) -> RawReply:
    return answer(status, {"code": code, "error": "Some text"})


def in_seconds(seconds: int) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


def limited_until_a_date(connection: socket.socket, server: RawServer) -> None:
    answer(429, Retry_After=in_seconds(60))(connection, server)


ANSWERED = {
    "read timeout": Case(hang, "timeout"),
    "closed at once": Case(end_at_once, "unreachable"),
    "reset in the body": Case(reset_in_the_body, "unreachable"),
    "ended in the body": Case(end_in_the_body, "unreachable"),
    "307": Case(answer(307, Location="/elsewhere"), UNUSABLE),
    "400 invalid_request": Case(refusal("invalid_request"), "invalid_request", IlertRejectedError),
    "400 invalid_scope": Case(refusal("invalid_scope"), "invalid_scope", IlertRejectedError),
    "400 access_denied": Case(refusal("access_denied"), "access_denied", IlertRejectedError),
    "400 unsupported_grant_type": Case(
        refusal("unsupported_grant_type"), "unsupported_grant_type", IlertRejectedError
    ),
    "400 server_error": Case(refusal("server_error"), "server_error"),
    "400 unheard of": Case(refusal("unheard_of"), "unknown_error", IlertRejectedError),
    "400 invalid_grant": Case(refusal("invalid_grant"), "invalid_grant", ReconnectRequiredError),
    "401 invalid_grant in code": Case(
        refusal("invalid_grant", 401), "invalid_grant", ReconnectRequiredError
    ),
    "401 invalid_grant in error": Case(
        answer(401, {"error": "invalid_grant"}), "invalid_grant", ReconnectRequiredError
    ),
    "401 invalid_grant in prose": Case(
        answer(401, {"code": "UNAUTHORIZED", "error": "This is an invalid_grant"}),
        "unknown_error",
        IlertRejectedError,
    ),
    "401 without JSON": Case(answer(401, b"invalid_grant"), UNUSABLE),
    "401 empty": Case(answer(401), UNUSABLE),
    "403 HTML": Case(answer(403, HTML), UNUSABLE),
    "429": Case(answer(429), LIMITED),
    "429 invalid_grant": Case(refusal("invalid_grant", 429), LIMITED),
    "429 for seconds": Case(answer(429, Retry_After="7"), LIMITED, retry_after=(7, 7)),
    "429 until a date": Case(limited_until_a_date, LIMITED, retry_after=(30, 60)),
    "429 until garbage": Case(answer(429, Retry_After="soon"), LIMITED),
    "500": Case(answer(500, {"code": "server_error", "error": "Internal"}), "server_error"),
    "500 invalid_grant": Case(refusal("invalid_grant", 500), "server_error"),
    "502 HTML": Case(answer(502, HTML), "server_error"),
    "503 for seconds": Case(answer(503, Retry_After="9"), "server_error", retry_after=(9, 9)),
    "200 HTML": Case(answer(200, HTML), UNUSABLE),
    "200 list": Case(answer(200, []), UNUSABLE),
    "200 empty object": Case(answer(200, {}), UNUSABLE),
    "200 without access_token": Case(
        answer(200, {"refresh_token": "new-refresh", "expires_in": 3600}), UNUSABLE
    ),
    "200 invalid_grant": Case(refusal("invalid_grant", 200), UNUSABLE),
    "200 truncated": Case(answer(200, b'{"access_token": "new-acc'), UNUSABLE),
    "200 empty": Case(answer(200), UNUSABLE),
    "200 ten megabytes": Case(
        answer(200, b'{"access_token": "' + b"x" * 10_000_000 + b'"}'), UNUSABLE
    ),
}


@contextmanager
def refusing() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@contextmanager
def never_accepting() -> Iterator[str]:
    """With its queue full, it lets a connection come about no more."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        yield f"http://127.0.0.1:{full.getsockname()[1]}"


@contextmanager
def nowhere() -> Iterator[str]:
    yield "https://ilert.invalid"


@dataclass(frozen=True)
class Unreachable:
    host: Callable[[], Any]
    code: str = "unreachable"


UNREACHABLE = {
    "connect timeout": Unreachable(never_accepting, "timeout"),
    "refused": Unreachable(refusing),
    "DNS failure": Unreachable(nowhere),
}

each_answer = pytest.mark.parametrize("case", ANSWERED.values(), ids=ANSWERED)
each_host = pytest.mark.parametrize("unreachable", UNREACHABLE.values(), ids=UNREACHABLE)


@pytest.fixture(autouse=True)
def little_patience(settings: Any) -> None:
    settings.ILERT_OAUTH_TIMEOUT = (0.3, 0.5)


@pytest.fixture
def account_at(user: User, settings: Any) -> Callable[[str], ConnectedAccount]:
    def make(url: str) -> ConnectedAccount:
        settings.ILERT_OAUTH_API_URL = url
        columns: dict[str, Any] = {"access_token": "old-access", "refresh_token": "old-refresh"}
        return ConnectedAccount.objects.create(
            user=user,
            api_url=url,
            tenant_id="acme",
            username="grace",
            granted_scope="profile",
            access_token_expires_at=timezone.now() - timedelta(minutes=1),
            refresh_token_expires_at=timezone.now() + timedelta(days=100),
            **columns,
        )

    return make


def refresh_fails(account: ConnectedAccount) -> IlertOAuthError:
    with pytest.raises(IlertOAuthError) as caught:
        flows.get_access_token(account)
    return caught.value


def times_tried_again(caplog: pytest.LogCaptureFixture) -> int:
    """What urllib3 tells of it; a server cannot count what never reaches it."""
    return sum(record.message.startswith("Retrying") for record in caplog.records)


@each_answer
def test_what_an_answer_does_to_an_account(
    case: Case,
    account_at: Callable[[str], ConnectedAccount],
    sent: list[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with raw_server(case.reply) as server:
        account = account_at(server.url)
        before = stored(account)
        error = refresh_fails(account)
    assert (type(error), error.code) == (case.error, case.code)
    assert stored(account) == before
    row = stored(account, "granted_scope", "last_error", "lease_id", "refreshed_at")
    assert row == {
        "granted_scope": "profile",
        "last_error": case.code,
        "lease_id": "",
        "refreshed_at": None,
    }
    ended = case.error is ReconnectRequiredError
    assert status_of(account) == (ENDED if ended else UNCHANGED)
    assert sent == [
        ("account_revoked", {"account": account, "reason": ENDED[1], "request": None})
        if ended
        else ("account_refresh_failed", {"account": account, "error": error})
    ]
    assert len(server.received) == 1
    assert times_tried_again(caplog) == 0


ENDED = (Status.RECONNECT_REQUIRED, Reason.REVOKED_AT_ILERT)
UNCHANGED = (Status.CONNECTED, "")


def status_of(account: ConnectedAccount) -> tuple[str, str]:
    row = stored(account, "status", "reason")
    return row["status"], row["reason"]


@pytest.mark.parametrize(
    "case", [case for name, case in ANSWERED.items() if name.startswith(("429", "503"))]
)
def test_how_long_to_wait_comes_with_the_error(
    case: Case, account_at: Callable[[str], ConnectedAccount]
) -> None:
    with raw_server(case.reply) as server:
        error = refresh_fails(account_at(server.url))
    assert isinstance(error, IlertUnavailableError)
    if case.retry_after is None:
        assert error.retry_after is None
    else:
        earliest, latest = case.retry_after
        assert error.retry_after is not None
        assert earliest <= error.retry_after <= latest


@each_host
def test_a_refresh_whose_connection_never_came_about_is_tried_once_more_and_changes_nothing(
    unreachable: Unreachable,
    account_at: Callable[[str], ConnectedAccount],
    sent: list[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with unreachable.host() as url:
        account = account_at(url)
        before = stored(account)
        error = refresh_fails(account)
    assert (type(error), error.code) == (IlertUnavailableError, unreachable.code)
    assert stored(account) == before
    assert stored(account, "status", "last_error", "lease_id") == {
        "status": Status.CONNECTED,
        "last_error": unreachable.code,
        "lease_id": "",
    }
    assert sent == [("account_refresh_failed", {"account": account, "error": error})]
    assert times_tried_again(caplog) == 1


class Callback:
    """An attempt to connect that has come back from ilert with a code."""

    def __init__(self, user: User) -> None:
        self._user = user
        self._session = SessionStore()

    def finish(self) -> IlertOAuthError:
        url = flows.start_connect(self._request())
        [state] = parse_qs(urlsplit(url).query)["state"]
        with pytest.raises(IlertOAuthError) as caught:
            flows.finish_connect(self._request({"code": "the-code", "state": state}))
        return caught.value

    def _request(self, query: dict[str, str] | None = None) -> HttpRequest:
        request = RequestFactory().get("/ilert/callback/", query or {})
        request.user, request.session = self._user, self._session
        return request


@each_answer
def test_a_code_exchange_is_never_sent_twice_and_stores_nothing_unless_it_succeeds(
    case: Case, user: User, settings: Any, sent: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with raw_server(case.reply) as server:
        settings.ILERT_OAUTH_API_URL = server.url
        error = Callback(user).finish()
    kind = IlertRejectedError if case.error is ReconnectRequiredError else case.error
    assert (type(error), error.code) == (kind, case.code)
    assert len(server.received) == 1
    assert times_tried_again(caplog) == 0
    assert ConnectedAccount.objects.count() == 0
    assert sent == []


@each_host
def test_a_code_exchange_whose_connection_never_came_about_is_tried_once_more(
    unreachable: Unreachable, user: User, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with unreachable.host() as url:
        settings.ILERT_OAUTH_API_URL = url
        error = Callback(user).finish()
    assert (type(error), error.code) == (IlertUnavailableError, unreachable.code)
    assert times_tried_again(caplog) == 1
    assert ConnectedAccount.objects.count() == 0
