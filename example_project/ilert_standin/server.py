import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote, urlsplit

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class QuietHandler(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:
        pass


class LoggingHandler(QuietHandler):
    """One line a request. Never the query string, which may hold a code or a state."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        path = quote(urlsplit(getattr(self, "path", "-")).path, safe="/%")
        sys.stderr.write(f"{self.command or '-'} {path} {code}\n")

    def connection_dropped(
        self, error: BaseException, environ: "WSGIEnvironment | None" = None
    ) -> None:
        if environ is not None:
            self.log_request("dropped")


def listen(
    app: "WSGIApplication", host: str, port: int, handler: type[WSGIRequestHandler]
) -> BaseWSGIServer:
    """Raises OSError if the port cannot be had; Werkzeug itself would print and exit."""
    with socket.create_server((host, port), backlog=128) as listener:
        return make_server(
            host, port, app, threaded=True, request_handler=handler, fd=listener.fileno()
        )


@contextmanager
def serve(app: "WSGIApplication", *, port: int = 0) -> Iterator[str]:
    """The base URL of a server in a thread of its own, on a free port unless one is given."""
    host = "127.0.0.1"
    server = listen(app, host, port, QuietHandler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.port}"
    finally:
        server.shutdown()
        thread.join()


def drop_connection(environ: "WSGIEnvironment") -> NoReturn:
    connection: socket.socket = environ["werkzeug.socket"]
    connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError


def drip(response: Response, head_pause: float, body_pause: float) -> "WSGIApplication":
    """The response is sent byte by byte where there is a pause, and the connection closed."""
    body = response.get_data()
    response.headers.update({"Content-Length": str(len(body)), "Connection": "close"})
    head = f"HTTP/1.1 {response.status}\r\n{response.headers}".encode("latin-1")

    def send(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        connection: socket.socket = environ["werkzeug.socket"]
        for part, pause in ((head, head_pause), (body, body_pause)):
            pieces = [bytes([byte]) for byte in part] if pause else [part]
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
        drop_connection(environ)

    return send
