"""No exception of ``IlertSession`` brings a secret along, however deep a tracker looks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from django_ilert_oauth.exceptions import IlertHTTPError
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth import transport
from django_ilert_oauth.session import IlertSession
from tests.conftest import AccountFactory
from tests.support.raw_server import RawReply, hang, raw_server, reset, saying
from tests.support.reachable_values import reachable
from tests.support.scripted_adapter import Reply, ScriptedAdapter, interrupted

TOKEN = "access-token-that-nobody-may-see"
PASSWORD = "password-of-the-proxy"
#: Pieces of it, as a tracker that shortens would show them.
SECRET = re.compile("|".join(text[at : at + 10] for text in (TOKEN, PASSWORD) for at in (0, 8, 11)))


def redirect(location: str) -> RawReply:
    head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\n"
    return saying(head.encode() + b"Connection: close\r\nContent-Length: 0\r\n\r\n")


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
FAILURES: dict[str, tuple[RawReply, Any]] = {
    "reset": (lambda connection, _server: reset(connection), requests.ConnectionError),
    "no HTTP": (saying(b"SSH-2.0-server\r\n"), requests.ConnectionError),
    "a body that is cut off": (
        saying(HEAD + b"Content-Length: 99\r\n\r\n[1"),
        requests.exceptions.ChunkedEncodingError,
    ),
    "a chunk that is none": (
        saying(HEAD + b"Transfer-Encoding: chunked\r\n\r\nnone\r\n"),
        requests.exceptions.ChunkedEncodingError,
    ),
    "no gzip": (
        saying(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n[12]"),
        requests.exceptions.ContentDecodingError,
    ),
    "silence": (hang, requests.ReadTimeout),
    "too many redirects": (redirect("/api/alerts"), requests.TooManyRedirects),
    "a redirect to another scheme": (
        redirect("ftp://127.0.0.1/"),
        requests.exceptions.InvalidSchema,
    ),
    "a redirect to nowhere": (redirect("http://127.0.0.1:9/"), requests.ConnectionError),
}


def found(error: BaseException, **options: int) -> list[str]:
    texts = list(reachable(error, own_file=__file__, **options))
    assert len(texts) > 10
    return [text for text in texts if SECRET.search(text)]


@pytest.mark.parametrize(("reply", "kind"), FAILURES.values(), ids=FAILURES)
def test_an_error_of_requests_brings_no_token_along(
    make_account: AccountFactory, settings: Any, reply: RawReply, kind: type[Exception]
) -> None:
    with raw_server(reply) as server:
        settings.ILERT_OAUTH_API_URL = server.url
        settings.ILERT_OAUTH_TIMEOUT = (1, 0.2)
        session = IlertSession(make_account(access_token=TOKEN))
        with session, pytest.raises(kind) as raised:
            session.get("/api/alerts")
        assert TOKEN.encode() in server.received[0]
    assert found(raised.value) == []


def test_nor_does_one_where_there_is_no_connection(
    make_account: AccountFactory, settings: Any
) -> None:
    settings.ILERT_OAUTH_API_URL = "http://127.0.0.1:9"
    session = IlertSession(make_account(access_token=TOKEN))
    with session, pytest.raises(requests.ConnectionError, match="port=9") as raised:
        session.get("/api/alerts")
    assert found(raised.value) == []


@pytest.fixture
def account(make_account: AccountFactory, settings: Any) -> ConnectedAccount:
    settings.ILERT_OAUTH_API_URL = "https://ilert.test"
    return make_account(access_token=TOKEN)


@pytest.fixture
def session(account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch) -> Iterator[IlertSession]:
    """Whatever it asks for is not there."""
    reply = Reply(404, body={"code": "NOT_FOUND", "message": "Gone"})
    monkeypatch.setitem(
        transport.adapters, "https://ilert.test/", ScriptedAdapter(reply, forgets=True)
    )
    with IlertSession(account) as session:
        yield session


def test_an_error_response_brings_no_token_along(session: IlertSession) -> None:
    with pytest.raises(IlertHTTPError) as raised:
        session.get("/api/alerts").raise_for_status()
    assert found(raised.value) == []


def test_nor_does_one_that_a_hook_or_a_list_has_raised_for(session: IlertSession) -> None:
    session.hooks["response"].append(lambda response, **kwargs: response.raise_for_status())
    with pytest.raises(IlertHTTPError) as raised:
        next(session.list("/api/alerts"))
    assert found(raised.value) == []


def test_the_error_of_a_hook_keeps_its_frames_and_brings_no_token_along(
    session: IlertSession,
) -> None:
    def fail(response: requests.Response, **kwargs: Any) -> None:
        raise LookupError

    session.hooks["response"].append(fail)
    with pytest.raises(LookupError) as raised:
        session.get("/api/alerts")
    assert raised.traceback[-1].name == "fail"
    assert found(raised.value) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_nor_does_an_end_of_the_worker(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    ended = interrupted("/api/alerts", error())
    monkeypatch.setitem(transport.adapters, "https://ilert.test/", ended)
    with IlertSession(account) as session, pytest.raises(error) as raised:
        session.get("/api/alerts")
    assert found(raised.value) == []


@pytest.mark.parametrize("odd", ["\n", "é", "→"])
def test_a_token_that_no_header_can_hold_is_not_named(account: ConnectedAccount, odd: str) -> None:
    account.access_token = TOKEN + odd
    session = IlertSession(account)
    with session, pytest.raises(requests.exceptions.InvalidHeader) as raised:
        session.get("/api/alerts")
    assert found(raised.value) == []


@pytest.mark.parametrize("prepared", [False, True])
def test_the_frames_of_an_error_do_not_hold_the_password_of_a_proxy(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch, prepared: bool
) -> None:
    monkeypatch.setenv("https_proxy", f"http://user:{PASSWORD}@127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with IlertSession(account) as session:
        request = session.prepare_request(requests.Request("GET", "/api/alerts"))
        with pytest.raises(requests.exceptions.ProxyError) as raised:
            session.send(request) if prepared else session.get("/api/alerts")
    # Further down, the session has it: it sends it to the proxy.
    assert found(raised.value, max_depth=3) == []


#: Each with a mistake that the libraries quote.
PROXIES = {
    "an unknown kind of SOCKS": "socks://user:{password}@127.0.0.1:9",
    "an impossible port": "http://user:{password}@127.0.0.1:99999",
    "a password that is not encoded": "http://user:{password}#@127.0.0.1:9",
    "a password outside of Latin-1": "http://user:{password}%E2%82%AC@127.0.0.1:9",
}


def refuse_kind(url: str, **_options: object) -> None:
    """As urllib3 does where PySocks is installed."""
    raise ValueError(f"Unable to determine SOCKS version from {url}")


@pytest.mark.parametrize("proxy", PROXIES.values(), ids=PROXIES)
def test_nor_does_an_error_about_the_address_of_a_proxy(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setattr("requests.adapters.SOCKSProxyManager", refuse_kind)
    monkeypatch.setenv("https_proxy", proxy.format(password=PASSWORD))
    monkeypatch.setenv("no_proxy", "")
    session = IlertSession(account)
    with session, pytest.raises(requests.exceptions.InvalidProxyURL, match="proxy") as raised:
        session.get("/api/alerts")
    assert found(raised.value, max_depth=3) == []


def test_an_error_names_its_request_without_the_token(
    make_account: AccountFactory, settings: Any
) -> None:
    settings.ILERT_OAUTH_API_URL = "http://127.0.0.1:9"
    session = IlertSession(make_account(access_token=TOKEN))
    with session, pytest.raises(requests.ConnectionError) as raised:
        session.get("/api/alerts")
    assert raised.value.request is not None
    assert raised.value.request.url == "http://127.0.0.1:9/api/alerts"
    assert "Authorization" not in raised.value.request.headers


def test_an_error_holds_no_connection(make_account: AccountFactory, settings: Any) -> None:
    settings.ILERT_OAUTH_API_URL = "http://127.0.0.1:9"
    with IlertSession(make_account()) as session, pytest.raises(requests.ConnectionError) as raised:
        session.get("/api/alerts")
    assert [type(part) for part in raised.value.args] == [str]
    assert "Connection refused" in str(raised.value)


def test_what_the_caller_is_handling_keeps_its_frames(
    make_account: AccountFactory, settings: Any
) -> None:
    settings.ILERT_OAUTH_API_URL = "http://127.0.0.1:9"
    cause = LookupError("cause")
    with IlertSession(make_account()) as session:
        try:
            raise ValueError("of the caller") from cause
        except ValueError as error:
            handled, frames = error, error.__traceback__
            with pytest.raises(requests.ConnectionError) as raised:
                session.get("/api/alerts")
    assert (handled.__traceback__, handled.__cause__) == (frames, cause)
    assert raised.value.__context__ is handled


@pytest.mark.parametrize(
    "hide", [lambda text: {"a": [text]}, lambda text: LookupError(text), lambda text: (text * 9,)]
)
def test_a_tracker_would_find_it_if_it_were_there(hide: Callable[[str], Any]) -> None:
    def fail(hidden: Any) -> None:
        raise LookupError

    with pytest.raises(LookupError) as raised:
        fail(hide(TOKEN))
    assert [text for text in reachable(raised.value, own_file="") if SECRET.search(text)]
