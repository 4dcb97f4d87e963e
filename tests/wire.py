"""ilert's endpoints as tests call them, and transports: one without a network, one of raw bytes."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from threading import Event, Thread
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse

from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.oauth.client import IlertClient
from django_ilert_oauth.oauth.secret import Secret
from tests import seed

API_URL = "https://api.ilert.com"
#: For what is to last as long.
SHORT = (0.2, 0.2)
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"

Call = Callable[[IlertClient], Any]
CALLS: dict[str, Call] = {
    "exchange_code": lambda ilert: ilert.exchange_code(Secret(seed.CODE), Secret(VERIFIER)),
    "refresh": lambda ilert: ilert.refresh(Secret(seed.REFRESH_TOKEN)),
    "token_info": lambda ilert: ilert.token_info(Secret(seed.ACCESS_TOKEN)),
    "current_user": lambda ilert: ilert.current_user(Secret(seed.ACCESS_TOKEN)),
    "revoke": lambda ilert: ilert.revoke(Secret(seed.REFRESH_TOKEN)),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def open_client(api_url: str = API_URL, *, timeout: tuple[float, float] = (5, 5)) -> IlertClient:
    return IlertClient(
        api_url=api_url,
        client_id=seed.CLIENT_ID,
        client_secret=Secret(seed.CLIENT_SECRET),
        timeout=timeout,
    )


def ask(call: Call = CALLS["refresh"], **keywords: Any) -> Any:
    with open_client(**keywords) as ilert:
        return call(ilert)


def unavailable(call: Call = CALLS["refresh"], **keywords: Any) -> IlertUnavailableError:
    with pytest.raises(IlertUnavailableError) as caught:
        ask(call, **keywords)
    return caught.value


class Body(BytesIO):
    """Counts what is taken of it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.taken += len(content)
        return content

    read1 = read


class Scripted(HTTPAdapter):
    """Gives the same response to each request, and keeps the request and how it was sent."""

    def __init__(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None):
        super().__init__()
        self.response = (body, status, headers or {})
        self.requests: list[requests.PreparedRequest] = []
        self.options: list[dict[str, Any]] = []
        self.body = Body()

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, **options: Any
    ) -> requests.Response:
        self.requests.append(request)
        self.options.append(options)
        body, status, headers = self.response
        self.body = Body(body)
        raw = HTTPResponse(body=self.body, status=status, headers=headers, preload_content=False)
        response: requests.Response = self.build_response(request, raw)
        return response


@dataclass
class RawServer:
    """Each connection has a thread and is closed once its reply returns."""

    url: str
    received: list[bytes] = field(default_factory=list)
    #: Set when the server is to end: what a reply that hangs waits for.
    over: Event = field(default_factory=Event)
    connections: int = 0

    def receive(self, connection: socket.socket) -> bytes:
        """The next request; empty once the other side has hung up."""
        request = _request(connection)
        self.received.append(request)
        return request


Reply = Callable[[socket.socket, RawServer], None]


@contextmanager
def raw_server(reply: Reply) -> Iterator[RawServer]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        server = RawServer(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread = Thread(target=_serve, args=(listener, server, reply), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def saying(text: bytes) -> Reply:
    return lambda connection, _server: connection.sendall(text)


def reset(connection: socket.socket) -> None:
    """Closes with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def hang(connection: socket.socket, server: RawServer) -> None:
    server.over.wait()


def reset_in_the_body(connection: socket.socket, server: RawServer) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
    reset(connection)


def _serve(listener: socket.socket, server: RawServer, reply: Reply) -> None:
    threads: list[Thread] = []
    with suppress(OSError):
        while not server.over.is_set():
            connection, _address = listener.accept()
            server.connections += 1
            threads.append(Thread(target=_converse, args=(connection, server, reply)))
            threads[-1].start()
    for thread in threads:
        thread.join()


def _converse(connection: socket.socket, server: RawServer, reply: Reply) -> None:
    with connection, suppress(OSError):
        server.receive(connection)
        reply(connection, server)


def _request(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as stream:
        head, length = b"", 0
        while line := stream.readline():
            head += line
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
            if line == b"\r\n":
                break
        return head + stream.read(length)
