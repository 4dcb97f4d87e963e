"""PgBouncer before the PostgreSQL server of the tests, with few connections to it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .needs import is_missing

PATIENCE = 10.0
CONFIGURATION = """
[databases]
* = {server}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 200
ignore_startup_parameters = extra_float_digits
"""


def find_pgbouncer() -> str:
    # Debian installs it where only root looks for programs.
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    return program or is_missing("pgbouncer", "apt-get install pgbouncer")


@contextmanager
def pgbouncer(settings: dict[str, Any], connections: int) -> Iterator[int]:
    """Its port; ``settings`` are Django's of the database."""
    program = find_pgbouncer()
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as folder:
        port = _free_port()
        path = Path(folder, "pgbouncer.ini")
        path.write_text(
            CONFIGURATION.format(
                server=_server(settings), listen_port=port, connections=connections
            )
        )
        Path(folder).chmod(0o755)
        # It refuses to run as root.
        user = "nobody" if os.geteuid() == 0 else None
        process = subprocess.Popen([program, "--quiet", path], user=user, cwd=folder)
        try:
            _wait_for(port)
            yield port
        finally:
            process.kill()
            process.wait()


def _server(settings: dict[str, Any]) -> str:
    parameters = {
        "host": settings["HOST"] or "127.0.0.1",
        "port": settings["PORT"] or 5432,
        "user": settings["USER"],
        "password": settings["PASSWORD"],
    }
    return " ".join(f"{name}='{value}'" for name, value in parameters.items() if value)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
