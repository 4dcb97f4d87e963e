"""Transports: one that answers without a network, and one that answers raw bytes on a socket."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from threading import Event, Thread
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse


class Body(BytesIO):
    """Counts what is taken of it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.taken += len(content)
        return content

    read1 = read


class Scripted(HTTPAdapter):
    """Gives the same answer to each request, and keeps the request and how it was sent."""

    def __init__(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None):
        super().__init__()
        self.answer = (body, status, headers or {})
        self.requests: list[requests.PreparedRequest] = []
        self.options: list[dict[str, Any]] = []
        self.body = Body()

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, **options: Any
    ) -> requests.Response:
        self.requests.append(request)
        self.options.append(options)
        body, status, headers = self.answer
        self.body = Body(body)
        raw = HTTPResponse(body=self.body, status=status, headers=headers, preload_content=False)
        response: requests.Response = self.build_response(request, raw)
        return response


@dataclass
class RawServer:
    url: str
    received: list[bytes] = field(default_factory=list)
    #: Set when the server is to end: what a reply that hangs waits for.
    over: Event = field(default_factory=Event)


Reply = Callable[[socket.socket, RawServer], None]


@contextmanager
def raw_server(reply: Reply) -> Iterator[RawServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
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


def _serve(listener: socket.socket, server: RawServer, reply: Reply) -> None:
    while not server.over.is_set():
        try:
            connection, _address = listener.accept()
        except OSError:
            return
        with connection:
            server.received.append(_request(connection))
            try:
                reply(connection, server)
            except OSError:
                continue


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
