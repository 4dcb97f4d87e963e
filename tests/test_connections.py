"""Connections that break, and what of a request shows outside of them."""

from __future__ import annotations

import gc
import http.client
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any
from unittest.mock import Mock

import pytest
import requests
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.util import connection

from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.oauth.transport import WatchedAdapter, open_session
from tests.support import ilert_guide
from tests.support.ilert_calls import CALLS, SHORT, Call, ask, open_client, unavailable
from tests.support.raw_server import (
    RawReply,
    RawServer,
    hang,
    raw_server,
    reset,
    reset_in_the_body,
    saying,
)


@pytest.fixture
def broken(request: pytest.FixtureRequest) -> Iterator[RawServer]:
    """A server that behaves as the test's parameter says."""
    with raw_server(request.param) as server:
        yield server


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return lambda url: monkeypatch.setenv("https_proxy", url)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port: int = closed.getsockname()[1]
        return port


def read(connection: socket.socket, server: RawServer) -> None:
    server.receive(connection)


def hang_in_the_body(connection: socket.socket, server: RawServer) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
    server.over.wait()


def test_an_interrupt_while_a_request_is_begun_keeps_it_from_being_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody would learn of the response."""

    def interrupt() -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with raw_server(read) as server, open_client(server.url) as ilert:
        monkeypatch.setattr(ilert._workers._changed, "notify", interrupt)
        with pytest.raises(KeyboardInterrupt):
            CALLS["refresh"](ilert)
        time.sleep(0.2)
        assert b"".join(server.received) == b""


# Broken ones

BROKEN: dict[str, tuple[RawReply, str]] = {
    "reset": (
        lambda connection, _server: reset(connection),
        "ConnectionError (ConnectionResetError)",
    ),
    "hung up": (lambda *_: None, "ConnectionError (RemoteDisconnected)"),
    "reset in body": (reset_in_the_body, "ProtocolError (ConnectionResetError)"),
    "cut off": (
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{}"),
        "ProtocolError (IncompleteRead)",
    ),
    "bad chunk": (
        saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}"),
        "ProtocolError (ValueError)",
    ),
    "not gzip": (
        saying(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"),
        "DecodeError (error)",
    ),
    "not HTTP": (saying(b"\xff\x00 not HTTP\r\n\r\n"), "ConnectionError (BadStatusLine)"),
}


@pytest.mark.parametrize("broken", [hang, hang_in_the_body], indirect=True)
def test_a_server_that_hangs_is_a_timeout(broken: RawServer) -> None:
    error = unavailable(api_url=broken.url, timeout=SHORT)
    assert (error.code, error.status) == ("timeout", 0)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(("reply", "names"), BROKEN.values(), ids=BROKEN)
def test_a_fresh_connection_that_breaks_is_transient_and_nothing_is_sent_again(
    call: Call, reply: RawReply, names: str, caplog: pytest.LogCaptureFixture
) -> None:
    with raw_server(reply) as server:
        error = unavailable(call, api_url=server.url)
        assert (error.code, error.status, len(server.received)) == ("unreachable", 0, 1)
    assert_unreachable(caplog, names)


def assert_unreachable(caplog: pytest.LogCaptureFixture, names: str) -> None:
    """The names of classes are all that is told."""
    told = [record for record in caplog.records if record.name.startswith("django_ilert_oauth")]
    assert [(record.levelname, record.getMessage()) for record in told] == [
        ("WARNING", f"ilert could not be reached: {names}")
    ]


def test_a_refused_connection_is_transient(caplog: pytest.LogCaptureFixture) -> None:
    assert unavailable(api_url=f"http://127.0.0.1:{closed_port()}").code == "unreachable"
    assert_unreachable(caplog, "ConnectionError (ConnectionRefusedError)")


def test_a_connection_that_fails_is_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    create, failures = connection.create_connection, [OSError()]

    def create_later(*args: Any, **kwargs: Any) -> socket.socket:
        if failures:
            raise failures.pop()
        return create(*args, **kwargs)

    monkeypatch.setattr(connection, "create_connection", create_later)
    with raw_server(responding_once) as server:
        assert ask(api_url=server.url).access_token == "abc"


def test_an_unknown_host_is_transient(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def resolve(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert unavailable(api_url="https://ilert.invalid").code == "unreachable"
    assert_unreachable(caplog, "ConnectionError (gaierror)")


def test_a_proxy_that_is_down_is_transient(
    proxied: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    proxied(f"http://127.0.0.1:{closed_port()}")
    assert unavailable().code == "unreachable"
    assert_unreachable(caplog, "ProxyError (ConnectionRefusedError)")


def test_a_proxy_that_wants_a_password_is_transient(
    proxied: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    with raw_server(saying(b"HTTP/1.1 407 hunter2\r\nContent-Length: 0\r\n\r\n")) as proxy:
        proxied(proxy.url)
        assert unavailable().code == "unreachable"
    assert_unreachable(caplog, "ProxyError (OSError)")


@pytest.mark.parametrize(
    "address",
    ["http://user:hunter2@127.0.0.1:99999", "http://user:%E2%82%AC@127.0.0.1", "http://user@"],
)
def test_a_proxy_whose_address_is_wrong_is_transient(
    proxied: Callable[[str], None], caplog: pytest.LogCaptureFixture, address: str
) -> None:
    proxied(address)
    assert unavailable().code == "unreachable"
    assert_unreachable(caplog, "InvalidProxyURL (InvalidProxyURL)")


def test_a_proxy_that_needs_a_library_which_is_not_there_is_told_as_requests_tells_it(
    proxied: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    missing = Mock(side_effect=requests.exceptions.InvalidSchema)
    monkeypatch.setattr("requests.adapters.SOCKSProxyManager", missing)
    proxied("socks5://127.0.0.1")
    assert unavailable().code == "unreachable"
    assert_unreachable(caplog, "InvalidSchema (InvalidSchema)")


@pytest.mark.parametrize("url", ["https://", "https://a b", "https://[", "https://a:b"])
def test_an_address_that_is_none_is_transient(url: str) -> None:
    assert unavailable(api_url=url).code == "unreachable"


# Kept ones


def responding_once(connection: socket.socket, server: RawServer) -> None:
    """On each connection; it takes a second request, and hangs up."""
    body = b'{"access_token": "abc", "active": true, "tenant_id": "acme", "username": "grace"}'
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection.sendall(head + body)
    server.receive(connection)


@pytest.mark.parametrize("name", ["token_info", "current_user"])
def test_what_may_be_repeated_is_tried_again_where_a_kept_connection_dies(name: str) -> None:
    with raw_server(responding_once) as server, open_client(server.url) as ilert:
        ilert.refresh(Secret(ilert_guide.REFRESH_TOKEN))
        CALLS[name](ilert)
        assert (server.connections, len(server.received)) == (2, 3)


@pytest.mark.parametrize("name", ["exchange_code", "refresh", "revoke"])
def test_what_works_only_once_is_not_sent_again_where_a_kept_connection_dies(name: str) -> None:
    with raw_server(responding_once) as server, open_client(server.url) as ilert:
        ilert.refresh(Secret(ilert_guide.REFRESH_TOKEN))
        with pytest.raises(IlertUnavailableError) as caught:
            CALLS[name](ilert)
        assert (caught.value.code, server.connections, len(server.received)) == (
            "unreachable",
            1,
            2,
        )


def test_a_repetition_keeps_to_the_deadline() -> None:
    def respond_once_in_all(connection: socket.socket, server: RawServer) -> None:
        if server.connections == 1:
            responding_once(connection, server)
        server.over.wait(5)

    with raw_server(respond_once_in_all) as server, open_client(server.url, timeout=SHORT) as ilert:
        ilert.refresh(Secret(ilert_guide.REFRESH_TOKEN))
        with pytest.raises(IlertUnavailableError) as caught:
            CALLS["token_info"](ilert)
        assert caught.value.code == "timeout"


# What shows


def test_a_pool_of_urllib3_makes_its_connections_of_a_class_that_can_be_exchanged() -> None:
    """``ConnectionCls`` is documented by its source only."""
    session = open_session()
    request = requests.Request("GET", "https://api.ilert.com").prepare()
    adapter: Any = session.get_adapter("https://api.ilert.com")
    pool = adapter.get_connection_with_tls_context(request, verify=True)
    assert issubclass(pool.ConnectionCls, HTTPConnectionPool.ConnectionCls)
    assert pool.ConnectionCls.__mro__[1].__module__ == "django_ilert_oauth.oauth.transport"
    assert adapter.get_connection_with_tls_context(request, verify=True) is pool
    session.close()


def test_an_adapter_is_of_use_to_other_sessions_too() -> None:
    with raw_server(responding_once) as server, requests.Session() as session:
        session.mount("http://", WatchedAdapter())
        assert session.get(server.url).status_code == 200


def test_debug_output_of_http_client_has_nothing_of_ours(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    with raw_server(responding_once) as server:
        for call in CALLS.values():
            ask(call, api_url=server.url)
    assert tuple(capfd.readouterr()) == ("", "")


#: A gateway's mistakes: what follows, or is quoted, may be the body of a response.
BROKEN_HEADS = {
    "no empty line": "{{\r\n{}\r\n}}\r\n\r\n",
    "a continuation of nothing": " {}\r\n\r\n",
    "the line of a mailbox": "Server: x\r\nFrom {}\r\n\r\n",
}


@pytest.mark.parametrize("rest", BROKEN_HEADS.values(), ids=BROKEN_HEADS)
def test_no_log_quotes_a_broken_head(caplog: pytest.LogCaptureFixture, rest: str) -> None:
    response = f"HTTP/1.1 200 OK\r\n{rest.format(ilert_guide.ACCESS_TOKEN)}"
    caplog.set_level("DEBUG")
    with raw_server(saying(response.encode())) as server:
        assert unavailable(api_url=server.url).code == "unusable_response"
    assert ilert_guide.ACCESS_TOKEN not in caplog.text


def test_closing_ends_a_connection_whose_pool_is_still_held() -> None:
    with raw_server(responding_once) as server, open_client(server.url) as ilert:
        ilert.refresh(Secret(ilert_guide.REFRESH_TOKEN))
        held = [thing for thing in gc.get_objects() if type(thing) is HTTPConnectionPool]
    assert held
    assert server.received[-1] == b""


def strings_in_memory() -> Iterator[str]:
    """In what the garbage collector knows, and in the frames of the threads that wait."""
    held = gc.get_referents(*gc.get_objects())
    here = threading.get_ident()
    frames = [frame for ident, frame in sys._current_frames().items() if ident != here]
    for frame in frames:
        held += frame.f_locals.values()
        frames += [frame.f_back] if frame.f_back else []
    for thing in held:
        # By its type: asking a lazy object for its class would make it.
        if issubclass(type(thing), str | bytes):
            yield thing if isinstance(thing, str) else thing.decode("latin-1")


LEFT: dict[str, tuple[RawReply, list[str], str]] = {
    "form": (responding_once, ["start_refresh"], "refresh_token={}"),
    "header": (responding_once, ["current_user"], "Bearer {}"),
    "form of a failure": (lambda *_: None, ["start_refresh"], "refresh_token={}"),
    "form of a repetition": (responding_once, ["start_refresh", "token_info"], "token={}"),
}


@pytest.mark.parametrize(("reply", "calls", "sent"), LEFT.values(), ids=LEFT)
def test_nothing_that_was_sent_stays_in_memory(
    reply: RawReply, calls: list[str], sent: str
) -> None:
    token = "".join(["a-token-that", "-no-code-object-holds"])
    with raw_server(reply) as server, open_client(server.url) as ilert:
        for call in calls:
            with suppress(IlertUnavailableError):
                made = getattr(ilert, call)(Secret(token))
                wait([made] if isinstance(made, Future) else [])
        server.received.clear()
        assert not [text for text in strings_in_memory() if sent.format(token) in text]
