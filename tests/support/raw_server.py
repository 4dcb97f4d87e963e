"""A server of raw bytes: each test says what a connection gets to read."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Thread


@dataclass
class RawServer:
    """Each connection has a thread and is closed once its reply returns."""

    url: str
    tls: ssl.SSLContext | None = None
    received: list[bytes] = field(default_factory=list)
    #: Set when the server is to end: what a reply that hangs waits for.
    over: Event = field(default_factory=Event)
    connections: int = 0

    def receive(self, connection: socket.socket) -> bytes:
        """The next request; empty once the other side has hung up."""
        request = _request(connection)
        self.received.append(request)
        return request


RawReply = Callable[[socket.socket, RawServer], None]


@contextmanager
def raw_server(reply: RawReply, tls: ssl.SSLContext | None = None) -> Iterator[RawServer]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        scheme = "https" if tls else "http"
        server = RawServer(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", tls)
        thread = Thread(target=_serve, args=(listener, server, reply), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def saying(text: bytes) -> RawReply:
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


def _serve(listener: socket.socket, server: RawServer, reply: RawReply) -> None:
    threads: list[Thread] = []
    with suppress(OSError):
        while not server.over.is_set():
            connection, _address = listener.accept()
            server.connections += 1
            threads.append(Thread(target=_converse, args=(connection, server, reply)))
            threads[-1].start()
    for thread in threads:
        thread.join()


def _converse(connection: socket.socket, server: RawServer, reply: RawReply) -> None:
    with suppress(OSError), connection:
        if server.tls:
            connection = server.tls.wrap_socket(connection, server_side=True)
        with connection:
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
