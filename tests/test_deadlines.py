"""Whatever ilert, its name server or a network does: a request is over by its deadline."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import requests
from requests.adapters import BaseAdapter

from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.oauth import client, transport, workers
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.oauth.transport import adapters, clock
from tests.support import ilert_guide
from tests.support.ilert_calls import API_URL, SHORT, Call, ask, each_call, open_client, unavailable
from tests.support.raw_server import RawReply, RawServer, hang, raw_server

TOKEN = Secret(ilert_guide.REFRESH_TOKEN)
OK = b"HTTP/1.1 200 OK\r\n"
LATE = 0.1
#: What a busy machine may add; far less than the timeouts.
SLACK = 1.0


def dripping(head: bytes, drop: bytes) -> RawReply:
    """Each drop comes within the read timeout, and there is no last one."""

    def drip(connection: socket.socket, server: RawServer) -> None:
        connection.sendall(head)
        while not server.over.wait(0.01):
            connection.sendall(drop)

    return drip


DRIPS: dict[str, RawReply] = {
    "nothing": hang,
    "status line": dripping(b"HTTP/1.1 2", b"0"),
    "informational responses": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers": dripping(OK, b"X-Pad: x\r\n"),
    "a header": dripping(OK + b"X-Pad: ", b"x"),
    "a body of known length": dripping(OK + b"Content-Length: 900\r\n\r\n", b" "),
    "a body without a length": dripping(OK + b"\r\n", b" "),
    "chunks": dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "chunk extensions": dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n2;", b"x=y;"),
    "trailers": dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X: y\r\n"),
    "a redirect": dripping(b"HTTP/1.1 307 X\r\nLocation: /\r\nContent-Length: 900\r\n\r\n", b" "),
}


def worker_threads() -> list[Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ilert-")]


def await_no_worker() -> None:
    for thread in worker_threads():
        thread.join(2)
    assert worker_threads() == []


@pytest.fixture(autouse=True)
def no_worker_stays() -> Iterator[None]:
    yield
    await_no_worker()


@pytest.fixture
def stuck_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Every name resolution waits for the event, which the end of the test sets at the latest."""
    free, resolve = Event(), socket.getaddrinfo

    def wait_and_resolve(*args: Any, **kwargs: Any) -> Any:
        free.wait(5)
        return resolve(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", wait_and_resolve)
    yield free
    free.set()


def done_at(future: Future[Any]) -> list[float]:
    moments: list[float] = []
    future.add_done_callback(lambda _future: moments.append(clock()))
    return moments


def await_one(found: list[Any]) -> None:
    until = clock() + 5
    while not found and clock() < until:
        time.sleep(0.01)


# The exchange


@pytest.mark.parametrize("reply", DRIPS.values(), ids=DRIPS)
def test_a_response_that_drips_ends_at_the_deadline_and_so_does_its_thread(
    reply: RawReply, caplog: pytest.LogCaptureFixture
) -> None:
    with raw_server(reply) as server:
        with open_client(server.url) as ilert:
            deadline = clock() + LATE
            moments = done_at(future := ilert.start_refresh(TOKEN, deadline=deadline))
            error = future.exception(5)
            assert isinstance(error, IlertUnavailableError)
            assert error.code == "timeout"
            assert 0 <= moments[0] - deadline < SLACK
        await_no_worker()
    assert caplog.messages == []


@each_call
def test_each_request_has_a_deadline_after_both_of_its_timeouts(call: Call) -> None:
    begun_at = clock()
    with raw_server(DRIPS["headers"]) as server:
        assert unavailable(call, api_url=server.url, timeout=(0.1, 0.1)).code == "timeout"
    assert clock() - begun_at < 0.2 + SLACK


@pytest.mark.parametrize(
    "name", ["exchange_code", "refresh", "token_info", "current_user", "revoke"]
)
def test_each_request_takes_an_earlier_deadline(name: str) -> None:
    secrets = [TOKEN, TOKEN] if name == "exchange_code" else [TOKEN]
    begun_at = clock()
    with raw_server(hang) as server, open_client(server.url) as ilert:
        with pytest.raises(IlertUnavailableError):
            getattr(ilert, name)(*secrets, deadline=begun_at + LATE)
        assert clock() - begun_at < LATE + SLACK


@pytest.mark.parametrize("name", ["start_refresh", "start_revoke", "start_token_info"])
def test_a_future_is_done_while_its_caller_is_busy_elsewhere(name: str) -> None:
    with raw_server(hang) as server, open_client(server.url) as ilert:
        deadline = clock() + LATE
        moments = done_at(getattr(ilert, name)(TOKEN, deadline=deadline))
        await_one(moments)  # and not the future
        assert 0 <= moments[0] - deadline < SLACK


def test_a_deadline_that_comes_before_the_one_that_is_waited_for_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "MAX_PAUSE", 100)
    with raw_server(DRIPS["headers"]) as server, open_client(server.url) as ilert:
        later = ilert.start_refresh(TOKEN, deadline=clock() + 5)
        time.sleep(0.05)  # the watchdog waits by now
        sooner = ilert.start_refresh(TOKEN, deadline=clock() + LATE)
        assert sooner.exception(LATE + SLACK)
        assert not later.done()


def test_a_slow_name_resolution_ends_at_the_deadline_and_nothing_is_sent(
    stuck_resolver: Event,
) -> None:
    with raw_server(hang) as server:
        begun_at = clock()
        error = unavailable(api_url=server.url.replace("127.0.0.1", "localhost"), timeout=SHORT)
        assert (error.code, clock() - begun_at < 0.4 + SLACK) == ("timeout", True)
        stuck_resolver.set()
        await_no_worker()
    assert not any(server.received)


def test_no_name_is_resolved_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no connection comes about there is one more try, in time only."""
    resolved: list[object] = []

    def fail_late(*args: Any, **kwargs: Any) -> Any:
        resolved.append(args)
        time.sleep(2 * LATE)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail_late)
    with open_client() as ilert, pytest.raises(IlertUnavailableError):
        ilert.refresh(TOKEN, deadline=clock() + LATE)
    await_no_worker()
    assert len(resolved) == 1


def test_nothing_is_sent_where_the_deadline_passes_while_the_connection_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect = socket.socket.connect

    def connect_slowly(sock: socket.socket, address: Any) -> None:
        connect(sock, address)
        time.sleep(2 * LATE)

    monkeypatch.setattr(socket.socket, "connect", connect_slowly)
    with raw_server(hang) as server, open_client(server.url) as ilert:
        future = ilert.start_refresh(TOKEN, deadline=clock() + LATE)
        assert future.exception(LATE + SLACK)
        time.sleep(2 * LATE)
    assert not any(server.received)


def test_nothing_is_sent_where_the_deadline_has_passed_already() -> None:
    with raw_server(hang) as server:
        with open_client(server.url) as ilert, pytest.raises(IlertUnavailableError) as caught:
            ilert.refresh(TOKEN, deadline=clock() - 1)
        assert (caught.value.code, server.connections) == ("timeout", 0)


def test_a_tls_handshake_without_an_end_is_a_timeout() -> None:
    with raw_server(hang) as server:
        url = server.url.replace("http:", "https:")
        assert unavailable(api_url=url, timeout=SHORT).code == "timeout"


def test_the_time_for_which_the_machine_was_suspended_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept = 0
    for module in (transport, client, workers):
        monkeypatch.setattr(module, "clock", lambda: clock() + slept)
    with raw_server(hang) as server, open_client(server.url, timeout=(50, 50)) as ilert:
        future = ilert.start_refresh(TOKEN)
        time.sleep(0.05)
        slept = 3600
        assert future.exception(workers.MAX_PAUSE + SLACK)


def test_what_came_while_the_process_was_stopped_is_read_although_the_deadline_has_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def reply(connection: socket.socket, _server: RawServer) -> None:
        for piece in (OK, b"Content-Length: 2\r\n", b"\r\n{}"):
            time.sleep(2 * LATE)
            connection.sendall(piece)

    # As if it were each time that the watchdog waits.
    monkeypatch.setattr(workers, "MAX_LATENESS", -1.0)
    with raw_server(reply) as server, open_client(server.url, timeout=(5, 5)) as ilert:
        ilert.start_revoke(TOKEN, deadline=clock() + 4 * LATE).result()


def test_the_clock_counts_time_in_suspension_where_the_platform_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if transport.BOOTTIME is not None:
        assert clock() == pytest.approx(time.clock_gettime(transport.BOOTTIME), abs=1)
    monkeypatch.setattr(transport, "BOOTTIME", None)
    assert clock() == pytest.approx(time.monotonic(), abs=1)


class Stuck(BaseAdapter):
    """Has no socket that could be shut."""

    def __init__(self) -> None:
        super().__init__()
        self.free = Event()

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        self.free.wait(5)
        response = requests.Response()
        response.status_code = 200
        return response

    def close(self) -> None:
        pass


def test_an_adapter_without_sockets_is_not_waited_for_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(adapters, API_URL, stuck := Stuck())
    begun_at = clock()
    assert unavailable(timeout=SHORT).code == "timeout"
    assert clock() - begun_at < 0.4 + SLACK
    stuck.free.set()


# Futures


def test_a_future_cannot_be_cancelled() -> None:
    """Its request may have left."""
    with raw_server(hang) as server, open_client(server.url) as ilert:
        assert not ilert.start_refresh(TOKEN).cancel()


@pytest.mark.parametrize("reply", [hang, lambda *_: None], ids=["timeout", "unreachable"])
def test_the_exception_of_a_future_comes_without_what_led_to_it(reply: RawReply) -> None:
    with raw_server(reply) as server, open_client(server.url, timeout=SHORT) as ilert:
        error = ilert.start_refresh(TOKEN).exception(5)
        assert isinstance(error, IlertUnavailableError)
        assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


# Threads


def ok(connection: socket.socket, server: RawServer) -> None:
    """To every request on the connection."""
    body = b'{"access_token": "abc"}'
    request = server.received[-1]
    while request:
        connection.sendall(OK + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        request = server.receive(connection)


def test_requests_one_after_the_other_share_a_thread_and_a_connection() -> None:
    with raw_server(ok) as server, open_client(server.url) as ilert:
        threads = set[str]()
        for _ in range(5):
            ilert.refresh(TOKEN)
            threads.update(str(thread.ident) for thread in worker_threads())
        assert (server.connections, len(threads)) == (1, 2)


def test_requests_at_once_have_as_many_connections_and_keep_them() -> None:
    count, everyone = 50, threading.Barrier(50)

    def together(connection: socket.socket, server: RawServer) -> None:
        with suppress(threading.BrokenBarrierError):
            everyone.wait(5)
        ok(connection, server)

    with raw_server(together) as server, open_client(server.url) as ilert:
        for _ in range(2):
            futures = [ilert.start_refresh(TOKEN) for _ in range(count)]
            assert [future.result().access_token for future in futures] == ["abc"] * count
        assert server.connections == count


def test_without_a_thread_ilert_is_unreachable(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with raw_server(hang) as server:

        def refuse(thread: Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(Thread, "start", refuse)
        assert unavailable(api_url=server.url).code == "unreachable"
        assert server.connections == 0
        monkeypatch.undo()
    assert caplog.messages == ["No thread for a request to ilert: RuntimeError"]


# Closing


def test_closing_waits_for_nothing_that_hangs_and_fails_it(stuck_resolver: Event) -> None:
    with raw_server(hang) as server:
        with open_client(server.url.replace("127.0.0.1", "localhost")) as ilert:
            future = ilert.start_refresh(TOKEN)
            begun_at = clock()
        assert clock() - begun_at < SLACK
        assert isinstance(future.exception(0), IlertUnavailableError)
        stuck_resolver.set()
        await_no_worker()
    assert not any(server.received)


def test_closing_ends_the_request_on_the_wire() -> None:
    ended = Event()

    def await_end(connection: socket.socket, server: RawServer) -> None:
        connection.settimeout(2)
        assert connection.recv(1) == b""
        ended.set()

    with raw_server(await_end) as server:
        ilert = open_client(server.url)
        future = ilert.start_refresh(TOKEN)
        await_one(server.received)
        ilert.close()
        assert future.done()
        assert ended.wait(1)


def test_closing_ends_the_threads_at_once() -> None:
    with raw_server(ok) as server:
        ask(api_url=server.url)
        assert worker_threads() == []


def test_a_client_may_be_closed_twice_and_by_a_callback(caplog: pytest.LogCaptureFixture) -> None:
    with raw_server(ok) as server, open_client(server.url) as ilert:
        future = ilert.start_refresh(TOKEN)
        future.add_done_callback(lambda _future: ilert.close())
        assert future.result().access_token == "abc"
    await_no_worker()
    assert caplog.messages == []


def test_a_closed_client_takes_no_request() -> None:
    ilert = open_client()
    ilert.close()
    with pytest.raises(RuntimeError):
        ilert.start_refresh(TOKEN)


HUNG_CLIENTS = """
import os, socket, sys, threading, time
from django_ilert_oauth.oauth.client import IlertClient
from django_ilert_oauth.oauth.secret import Secret
api_url = sys.argv[1]
def client(api_url):
    return IlertClient(api_url=api_url, client_id="c", client_secrets=[Secret("s")], timeout=(9, 9))
"""


def run(code: str, api_url: str) -> None:
    """As a program of its own, which has to end by itself and without a warning."""
    program = [sys.executable, "-X", "dev", "-W", "error", "-c", HUNG_CLIENTS + code, api_url]
    root = Path(__file__).parents[1]
    result = subprocess.run(program, cwd=root, capture_output=True, text=True, timeout=10)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_request_that_hangs_keeps_no_program_from_ending() -> None:
    code = """
socket.getaddrinfo = lambda *args, **kwargs: time.sleep(60)
with client("http://localhost:1") as resolving:
    resolving.start_refresh(Secret("t"))
with client(api_url) as hanging:
    hanging.start_refresh(Secret("t"))
    time.sleep(0.2)
left_open = client(api_url)
left_open.start_refresh(Secret("t"))
time.sleep(0.2)
"""
    with raw_server(hang) as server:
        run(code, server.url)


def test_a_child_of_a_fork_has_a_client_of_its_own() -> None:
    code = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads
with client(api_url) as ilert:
    ilert.refresh(Secret("t"))
    child = os.fork()
    if not child:
        with client(api_url) as ilert:
            ilert.refresh(Secret("t"))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    ilert.refresh(Secret("t"))
"""
    with raw_server(ok) as server:
        run(code, server.url)
        assert server.connections == 2
