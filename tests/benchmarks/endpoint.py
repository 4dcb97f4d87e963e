"""The token endpoint as the benchmarks use it: started, set, asked what it counted."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

PROGRAM = [sys.executable, "-m", "tests.benchmarks.token_endpoint"]


@dataclass(frozen=True)
class Seen:
    served: int
    refused: int
    busiest: int


@contextmanager
def running() -> Iterator[str]:
    """Yields its URL."""
    pipe = subprocess.PIPE
    with subprocess.Popen(PROGRAM, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()


def restart(url: str, *, latency: float = 0.0, limit: int = 0) -> Seen:
    """What was counted since the last restart."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.request("GET", f"/?latency={latency}&limit={limit}")
    seen = Seen(**json.load(connection.getresponse()))
    connection.close()
    return seen


def capacity(url: str, count: int = 2000) -> float:
    """Requests a second on one connection, by a caller that does next to nothing."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.connect()
    sock, started = connection.sock, time.perf_counter()
    for _ in range(count):
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 300\r\n\r\n" + bytes(300))
        sock.recv(65536)
    connection.close()
    return count / (time.perf_counter() - started)
