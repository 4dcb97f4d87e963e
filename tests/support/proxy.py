"""A proxy before a server on loopback, whose connections can be cut, refused and delayed."""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Event, Lock, Thread, Timer


class TcpProxy:
    """``rejection`` is what new connections are sent before they are closed; None lets them in.

    ``delay`` is how many seconds they wait for the server. With ``loses_response`` set, the
    connections are cut in place of what the server says next.
    """

    def __init__(self, target: tuple[str, int], port: int = 0) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = Lock()
        self._is_closed = Event()
        self.rejection: bytes | None = None
        self.delay = 0.0
        self.loses_response = False
        Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends each connection that is open."""
        with self._lock:
            for end in self._open:
                _shut_down(end)

    def go_down(self, seconds: float, rejection: bytes = b"") -> None:
        """Cuts, and refuses connections for so long."""
        self.rejection = rejection
        self.cut()
        Timer(seconds, self.come_back).start()

    def come_back(self) -> None:
        self.rejection = None

    def close(self) -> None:
        self._is_closed.set()
        _shut_down(self._listener)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._is_closed.is_set():
                client, _address = self._listener.accept()
                Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self.rejection is not None:
                _refuse(client, self.rejection)
                return
            self._is_closed.wait(self.delay)
            with socket.create_connection(self._target) as server:
                self._connect(client, server)

    def _connect(self, client: socket.socket, server: socket.socket) -> None:
        ends = {client, server}
        with self._lock:
            if self.rejection is not None:
                return
            self._open |= ends
        try:
            back = Thread(target=self._pump, args=(server, client, True), daemon=True)
            back.start()
            self._pump(client, server)
            back.join()
        finally:
            with self._lock:
                self._open -= ends

    def _pump(self, source: socket.socket, sink: socket.socket, is_response: bool = False) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if is_response and self.loses_response:
                    self.loses_response = False
                    break
                sink.sendall(data)
        _shut_down(source)
        _shut_down(sink)


def _refuse(client: socket.socket, rejection: bytes) -> None:
    client.sendall(rejection)
    client.shutdown(socket.SHUT_WR)
    # Whoever closes a socket with something unread takes back what was sent.
    client.settimeout(1)
    while client.recv(65536):
        continue


def _shut_down(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
