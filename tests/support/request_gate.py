"""A gate before the stand-in that a request passes only if its sender is still alive."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from threading import Event, Lock
from typing import TYPE_CHECKING

from ilert_standin import StandIn
from ilert_standin.server import drop_connection

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class RequestGate:
    """Is shut from the arrival on that ``shut_at`` counts, until ``open`` is set."""

    def __init__(self, standin: StandIn) -> None:
        self._standin = standin
        self._lock = Lock()
        #: When the requests came, by the monotonic clock.
        self.arrivals: list[float] = []
        self.shut_at: int | None = None
        self.open = Event()
        self._waiting: list[tuple[str, socket.socket]] = []

    @property
    def waiting(self) -> Counter[str]:
        """How many of each worker will pass; those who have hung up will not."""
        return Counter(worker for worker, sender in self._waiting if not has_hung_up(sender))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        connection: socket.socket = environ["werkzeug.socket"]
        if self._must_wait(environ["HTTP_X_WORKER"], connection):
            self.open.wait()
        if has_hung_up(connection):
            drop_connection(environ)
        return self._standin(environ, start_response)

    def _must_wait(self, worker: str, sender: socket.socket) -> bool:
        with self._lock:
            self.arrivals.append(time.monotonic())
            is_shut = self.shut_at is not None and len(self.arrivals) >= self.shut_at
            if is_shut and not self.open.is_set():
                self._waiting.append((worker, sender))
            return is_shut


def has_hung_up(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
