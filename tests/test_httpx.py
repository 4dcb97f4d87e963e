"""``IlertAuth`` in sync and in async clients of httpx: each test runs with both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from asgiref.sync import async_to_sync
from django.utils import timezone

from django_ilert_oauth.exceptions import (
    EndpointMismatchError,
    IlertOAuthError,
    ReconnectRequiredError,
)
from django_ilert_oauth.httpx import IlertAuth
from django_ilert_oauth.models import ConnectedAccount
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory
from tests.support.reachable_values import reachable

TOKEN = "access-token-that-nobody-may-see"

Request = Callable[..., httpx.Response]


def sync_request(
    account: ConnectedAccount, method: str, url: str, *, options: Any = (), **kwargs: Any
) -> httpx.Response:
    auth, base = IlertAuth(account), account.api_url
    with httpx.Client(auth=auth, base_url=base, trust_env=False, **dict(options)) as client:
        return client.request(method, url, **kwargs)


@async_to_sync
async def async_request(
    account: ConnectedAccount, method: str, url: str, *, options: Any = (), **kwargs: Any
) -> httpx.Response:
    auth, base = IlertAuth(account), account.api_url
    client = httpx.AsyncClient(auth=auth, base_url=base, trust_env=False, **dict(options))
    async with client:
        return await client.request(method, url, **kwargs)


@pytest.fixture(params=[sync_request, async_request], ids=["sync", "async"])
def request_(request: pytest.FixtureRequest) -> Request:
    return request.param  # type: ignore[no-any-return]


class Elsewhere(httpx.MockTransport):
    """Responds once with each of these, and keeps what it was sent."""

    def __init__(self, *responses: tuple[int, dict[str, str]]) -> None:
        super().__init__(self._respond)
        self._responses = iter(responses)
        self.authorizations: list[str | None] = []

    def _respond(self, request: httpx.Request) -> httpx.Response:
        self.authorizations.append(request.headers.get("Authorization"))
        status, headers = next(self._responses)
        return httpx.Response(status, headers=headers)


def test_a_fresh_token_is_sent(
    account: ConnectedAccount, ilert: StandIn, request_: Request
) -> None:
    response = request_(account, "GET", "/api/users/current")
    assert response.json()["username"] == "grace"
    assert ilert.token_requests == []


def test_an_expired_token_is_refreshed_first(
    expired_account: ConnectedAccount, ilert: StandIn, request_: Request
) -> None:
    assert request_(expired_account, "GET", "/api/users/current").status_code == 200
    assert len(ilert.token_requests) == 1


def test_a_grant_that_has_ended_makes_no_request(
    expired_account: ConnectedAccount, ilert: StandIn, request_: Request
) -> None:
    ilert.revoke_app("acme", "grace")
    with pytest.raises(ReconnectRequiredError):
        request_(expired_account, "GET", "/api/users/current")
    assert [request.path for request in ilert.requests if "oauth2" not in request.path] == []


@pytest.mark.parametrize("age", [timedelta(0), timedelta(minutes=10)])
def test_after_a_401_come_one_refresh_and_one_more_request(
    make_account: AccountFactory, ilert: StandIn, request_: Request, age: timedelta
) -> None:
    account = make_account(refreshed_at=timezone.now() - age)
    ilert.expire_access_tokens()
    source = {"name": "Lift", "integrationType": "API", "escalationPolicy": {"id": 1}}
    response = request_(account, "POST", "/api/alert-sources", json=source)
    assert (response.status_code, response.json()["name"]) == (201, "Lift")
    assert len(ilert.token_requests) == 1


def test_a_second_401_is_final(
    account: ConnectedAccount, ilert: StandIn, request_: Request
) -> None:
    ilert.add_fault("users/current", Fault(401), times=None)
    assert request_(account, "GET", "/api/users/current").status_code == 401
    assert len(ilert.token_requests) == 1


def test_a_401_is_final_where_no_other_token_can_be_had(
    account: ConnectedAccount, ilert: StandIn, request_: Request
) -> None:
    ilert.expire_access_tokens()
    ilert.add_fault("token", Fault(503))
    assert request_(account, "GET", "/api/users/current").status_code == 401
    assert len(ilert.requests) == 2


def sync_chunks() -> Iterator[bytes]:
    yield b"once"


async def async_chunks() -> AsyncIterator[bytes]:
    yield b"once"


def test_a_stream_is_not_sent_again_but_the_token_is_refreshed(
    account: ConnectedAccount, ilert: StandIn, request_: Request
) -> None:
    before = account.access_token
    ilert.expire_access_tokens()
    body = sync_chunks() if request_ is sync_request else async_chunks()
    response = request_(account, "POST", "/api/alert-sources", content=body)
    assert response.status_code == 401
    assert account.access_token != before


OUTSIDE = [
    "https://evil.example/",
    "http://gateway.test/tenant-a/",
    "https://gateway.test:8443/tenant-a/",
    "https://gateway.test/tenant-b/",
    "https://gateway.test/tenant-a/../tenant-b/",
    "https://gateway.test/tenant-a/%2e%2e/tenant-b/",
    "https://gateway.test@evil.example/tenant-a/",
]


@pytest.mark.parametrize("url", OUTSIDE)
def test_the_token_stays_below_the_api_url(
    make_account: AccountFactory, settings: Any, request_: Request, url: str
) -> None:
    settings.ILERT_OAUTH_API_URL = "https://gateway.test/tenant-a"
    elsewhere = Elsewhere()
    with pytest.raises(EndpointMismatchError):
        request_(make_account(), "GET", url, options={"transport": elsewhere})
    assert elsewhere.authorizations == []


def test_the_token_is_not_sent_over_plain_http(
    make_account: AccountFactory, settings: Any, request_: Request
) -> None:
    settings.ILERT_OAUTH_API_URL = "http://ilert.test"
    with pytest.raises(IlertOAuthError, match="plain http"):
        request_(make_account(), "GET", "/api/alerts")


def test_a_redirect_to_another_host_goes_without_the_token(
    account: ConnectedAccount, request_: Request
) -> None:
    elsewhere = Elsewhere((302, {"Location": "https://other.test/"}), (204, {}))
    options = {"transport": elsewhere, "follow_redirects": True}
    request_(account, "GET", "/api/alerts", options=options)
    assert elsewhere.authorizations == [f"Bearer {account.access_token.reveal()}", None]


@pytest.mark.parametrize("reply", [(200, {}), (302, {"Location": "/api/there"})])
def test_what_is_handed_out_holds_no_token(
    account: ConnectedAccount, request_: Request, reply: tuple[int, dict[str, str]]
) -> None:
    options = {"transport": Elsewhere(reply)}
    response = request_(account, "GET", "/api/alerts", options=options)
    requests = [response.request, response.next_request or response.request]
    assert ["Authorization" in request.headers for request in requests] == [False, False]


@pytest.mark.parametrize("last", [(200, {}), (401, {})])
def test_what_redirects_have_made_holds_no_token(
    account: ConnectedAccount, request_: Request, last: tuple[int, dict[str, str]]
) -> None:
    there = (302, {"Location": "/api/there"})
    elsewhere = Elsewhere(there, there, last, there, there, last)
    options = {"transport": elsewhere, "follow_redirects": True}
    response = request_(account, "GET", "/api/alerts", options=options)
    assert response.status_code == last[0]
    assert None not in elsewhere.authorizations
    assert len(response.history) >= 2
    for one in (response, *response.history):
        assert "Authorization" not in one.request.headers


def test_the_error_of_too_many_redirects_holds_no_token(
    account: ConnectedAccount, request_: Request
) -> None:
    there = (302, {"Location": "/api/there"})
    options = {"transport": Elsewhere(there, there), "follow_redirects": True, "max_redirects": 1}
    with pytest.raises(httpx.TooManyRedirects) as raised:
        request_(account, "GET", "/api/alerts", options=options)
    assert "Authorization" not in raised.value.request.headers


def test_an_error_that_names_no_request_is_raised_as_it_is(
    account: ConnectedAccount, request_: Request
) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.HTTPError("of a transport")

    with pytest.raises(httpx.HTTPError, match="of a transport"):
        request_(account, "GET", "/", options={"transport": httpx.MockTransport(fail)})


def test_the_request_of_an_error_holds_no_token(
    make_account: AccountFactory, settings: Any, request_: Request
) -> None:
    settings.ILERT_OAUTH_API_URL = "http://127.0.0.1:9"
    with pytest.raises(httpx.ConnectError) as raised:
        request_(make_account(), "GET", "/api/alerts")
    assert "Authorization" not in raised.value.request.headers


@pytest.mark.parametrize("fault", [Fault(drop=True), Fault(late=1)])
def test_an_error_brings_no_token_along(
    make_account: AccountFactory, ilert: StandIn, request_: Request, fault: Fault
) -> None:
    ilert.add_fault("users/current", fault)
    account = make_account(access_token=TOKEN)
    with pytest.raises(httpx.TransportError) as raised:
        request_(account, "GET", "/api/users/current", options={"timeout": 0.5})
    assert [text for text in reachable(raised.value, own_file=__file__) if TOKEN in text] == []


@pytest.mark.parametrize("odd", ["\n", "é"])
def test_a_token_that_no_header_can_hold_is_not_named(
    make_account: AccountFactory, request_: Request, caplog: pytest.LogCaptureFixture, odd: str
) -> None:
    caplog.set_level("DEBUG")
    account = make_account(access_token=TOKEN + odd)
    with pytest.raises(httpx.LocalProtocolError, match="No header") as raised:
        request_(account, "GET", "/api/users/current")
    shown = [caplog.text, *reachable(raised.value, own_file=__file__)]
    assert [text for text in shown if TOKEN in text] == []


def test_what_the_caller_is_handling_keeps_its_frames(
    account: ConnectedAccount, ilert: StandIn, request_: Request
) -> None:
    ilert.add_fault("users/current", Fault(drop=True))
    try:
        raise ValueError("of the caller")
    except ValueError as error:
        handled, frames = error, error.__traceback__
        with pytest.raises(httpx.TransportError) as raised:
            request_(account, "GET", "/api/users/current")
    assert frames
    assert handled.__traceback__
    assert raised.value.__context__ is handled


def test_a_flow_may_end_where_nothing_is_wrong(account: ConnectedAccount) -> None:
    request = httpx.Request("GET", account.api_url)
    flow = IlertAuth(account).sync_auth_flow(request)
    next(flow)
    flow.close()
    assert "Authorization" not in request.headers
