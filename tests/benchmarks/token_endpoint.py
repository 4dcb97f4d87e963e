"""A token endpoint: a program of its own that responds to every POST with new tokens.

It prints its port and ends with its standard input. ``GET /?latency=0.05&limit=700`` sets the
seconds until a response and how many tokens any rolling minute gets (0: no limit; further requests
are refused with 429), and returns what was counted since the last such request.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

RESPONSE = json.loads((Path(__file__).parents[1] / "standin/seed_response.json").read_text())
TOKENS = ("access_token", "refresh_token")
BODY = json.dumps({**RESPONSE, **{name: f"{RESPONSE[name]}-SERIAL" for name in TOKENS}})
MINUTE = 60.0


@dataclass
class Counts:
    """``busiest`` is the most that any rolling minute held."""

    latency: float = 0.0
    limit: int = 0
    served: int = 0
    refused: int = 0
    busiest: int = 0
    _minute: deque[float] = field(default_factory=deque)

    def admit(self) -> bool:
        now = time.monotonic()
        while self._minute and self._minute[0] <= now - MINUTE:
            self._minute.popleft()
        if self.limit and len(self._minute) >= self.limit:
            self.refused += 1
            return False
        self.served += 1
        self._minute.append(now)
        self.busiest = max(self.busiest, len(self._minute))
        return True


class Endpoint(asyncio.Protocol):
    """One connection; requests on it come one after the other."""

    counts = Counts()
    serial = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if end and len(body) >= _content_length(head):
            self._received = b""
            self._respond(head)

    def _respond(self, head: bytes) -> None:
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        if method == "GET":
            self._write(200, json.dumps(_restart(target)))
        elif not self.counts.admit():
            self._write(429, "{}")
        elif self.counts.latency:
            asyncio.get_running_loop().call_later(self.counts.latency, self._write, 200, _tokens())
        else:
            self._write(200, _tokens())

    def _write(self, status: int, body: str) -> None:
        self._transport.write(
            f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0


def _tokens() -> str:
    """No two alike: each refresh token replaces the one that was sent."""
    Endpoint.serial += 1
    return BODY.replace("SERIAL", str(Endpoint.serial))


def _restart(target: str) -> dict[str, int]:
    past, query = Endpoint.counts, parse_qs(urlsplit(target).query)
    Endpoint.counts = Counts(float(query["latency"][0]), int(query["limit"][0]))
    return {"served": past.served, "refused": past.refused, "busiest": past.busiest}


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Endpoint, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(_serve())
