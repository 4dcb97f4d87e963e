"""Where error trackers send to, in place of their makers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

#: gzip and zlib, whichever it is.
ANY_COMPRESSION = 32 + zlib.MAX_WBITS


@dataclass
class Sink:
    """``received`` holds each request: line, headers and body, unpacked."""

    url: str = ""
    received: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    sink: Sink

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding"):
            body = zlib.decompress(body, ANY_COMPRESSION)
        self.sink.received.append(f"{self.requestline} {self.headers} {body.decode('latin-1')}")
        self.send_response(202)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def open_sink() -> Iterator[Sink]:
    sink = Sink()
    handler = type("Handler", (_Handler,), {"sink": sink})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        sink.url = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, daemon=True).start()
        yield sink
        server.shutdown()
