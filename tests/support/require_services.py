"""Says in one line which service named by the environment accepts no connections."""

from __future__ import annotations

import os
import socket
import sys
from urllib.parse import urlsplit

PORTS = {"postgres": 5432, "mysql": 3306, "redis": 6379, "amqp": 5672}


def main(*names: str) -> int:
    missing = {name: address_of(os.environ[name]) for name in names}
    missing = {
        name: address for name, address in missing.items() if not accepts_connections(address)
    }
    for name, (host, port) in missing.items():
        print(
            f"{host}:{port} accepts no connections: start the service, or set {name}",
            file=sys.stderr,
        )
    return len(missing)


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or PORTS[parts.scheme]


def accepts_connections(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, timeout=5):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
