"""The table of responses: what each kind does to an account, and to an attempt to connect one.

Which response is of which kind is tested with the client.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import Mock

import pytest
import urllib3.util.connection
from django.http import HttpRequest

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import (
    IlertOAuthError,
    IlertRejectedError,
    IlertUnavailableError,
    ReconnectRequiredError,
)
from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory
from tests.flows.conftest import RequestMaker
from tests.support.connect_steps import query_of
from tests.support.other_callers import stored

pytestmark = pytest.mark.django_db(transaction=True)

UNUSABLE = "unusable_response"


@dataclass(frozen=True)
class Case:
    fault: Fault
    code: str
    error: type[IlertOAuthError] = IlertUnavailableError
    retry_after: float | None = None


def oauth_error(code: str, status: int = 400) -> Fault:
    return Fault(status, f'{{"code": "{code}", "error": "Some text"}}')


RESPONSES = {
    "read timeout": Case(Fault(delay=1), "timeout"),
    "closed at once": Case(Fault(drop=True), "unreachable"),
    "307": Case(Fault(307, headers={"Location": "/elsewhere"}), UNUSABLE),
    "400 unheard of": Case(oauth_error("unheard_of"), "unknown_error", IlertRejectedError),
    "400 invalid_grant": Case(
        oauth_error("invalid_grant"), "invalid_grant", ReconnectRequiredError
    ),
    "401 without JSON": Case(Fault(401, "invalid_grant"), UNUSABLE),
    "429 invalid_grant for seconds": Case(
        Fault(429, '{"code": "invalid_grant"}', {"Retry-After": "7"}), "rate_limited", retry_after=7
    ),
    "500 invalid_grant": Case(oauth_error("invalid_grant", 500), "server_error"),
    "200 without access_token": Case(Fault(200, '{"refresh_token": "new-refresh"}'), UNUSABLE),
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


UNREACHABLE = {
    "connect timeout": (never_accepting, "timeout"),
    "refused": (refusing, "unreachable"),
    "DNS failure": (nowhere, "unreachable"),
}
ENDED, UNCHANGED = (Status.RECONNECT_REQUIRED, Reason.REVOKED_AT_ILERT), (Status.CONNECTED, "")


@pytest.fixture(autouse=True)
def little_patience(settings: Any) -> None:
    settings.ILERT_OAUTH_TIMEOUT = (0.3, 0.5)


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """To connect: a server cannot count what never reaches it."""
    wrapped = Mock(wraps=urllib3.util.connection.create_connection)
    monkeypatch.setattr(urllib3.util.connection, "create_connection", wrapped)
    return wrapped


@pytest.mark.parametrize("case", RESPONSES.values(), ids=RESPONSES)
def test_what_a_response_does_to_an_account(
    case: Case, expired_account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    ilert.add_fault("token", case.fault)
    before = stored(expired_account)
    with pytest.raises(IlertOAuthError) as caught:
        flows.get_access_token(expired_account)
    error = caught.value
    assert (type(error), error.code) == (case.error, case.code)
    assert getattr(error, "retry_after", None) == case.retry_after
    assert stored(expired_account) == before
    row = stored(expired_account, "granted_scope", "last_error", "lease_id", "refreshed_at")
    assert tuple(row.values()) == ("profile source:w", case.code, "", None)
    ended = case.error is ReconnectRequiredError
    status = tuple(stored(expired_account, "status", "reason").values())
    assert status == (ENDED if ended else UNCHANGED)
    [(name, facts)] = sent
    assert name == ("account_revoked" if ended else "account_refresh_failed")
    told = {"reason": ENDED[1], "request": None} if ended else {"error": error}
    assert facts == {"account": expired_account, **told}
    assert len(ilert.token_requests) == 1


@pytest.mark.parametrize(("host", "code"), UNREACHABLE.values(), ids=UNREACHABLE)
def test_a_refresh_whose_connection_never_came_about_is_tried_once_more_and_changes_nothing(
    host: Callable[[], Any],
    code: str,
    make_account: AccountFactory,
    settings: Any,
    sent: list[Any],
    attempts: Mock,
) -> None:
    with host() as settings.ILERT_OAUTH_API_URL:
        account = make_account(access_token_expires_at=None)
        before = stored(account)
        with pytest.raises(IlertUnavailableError) as caught:
            flows.get_access_token(account)
    assert stored(account) == before
    row = stored(account, "status", "last_error", "lease_id")
    assert tuple(row.values()) == (Status.CONNECTED, code, "")
    assert sent == [("account_refresh_failed", {"account": account, "error": caught.value})]
    assert attempts.call_count == 2


@pytest.mark.parametrize("name", ["read timeout", "400 invalid_grant", "500 invalid_grant"])
def test_a_code_exchange_is_never_sent_twice_and_stores_nothing_unless_it_succeeds(
    name: str, callback: HttpRequest, ilert: StandIn, sent: list[Any]
) -> None:
    case = RESPONSES[name]
    ilert.add_fault("token", case.fault)
    with pytest.raises(IlertOAuthError) as caught:
        flows.finish_connect(callback)
    assert caught.value.code == case.code
    assert not isinstance(caught.value, ReconnectRequiredError)
    assert len(ilert.token_requests) == 1
    assert (ConnectedAccount.objects.count(), sent) == (0, [])


def test_a_code_exchange_whose_connection_never_came_about_is_tried_once_more(
    make_request: RequestMaker, settings: Any, attempts: Mock
) -> None:
    with refusing() as settings.ILERT_OAUTH_API_URL:
        state = query_of(flows.start_connect(make_request()))["state"]
        with pytest.raises(IlertUnavailableError):
            flows.finish_connect(make_request(f"/?code=the-code&state={state}"))
    assert attempts.call_count == 2
    assert ConnectedAccount.objects.count() == 0
