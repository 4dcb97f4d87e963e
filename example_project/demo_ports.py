from __future__ import annotations

import socket
from contextlib import ExitStack

HOST = "127.0.0.1"


class PortTakenError(Exception):
    pass


def choose_ports(wanted: dict[str, int]) -> list[int]:
    """A port that can be had for each option; 0 is any free one."""
    with ExitStack() as stack:
        # All are held together, so that no two options get the same.
        sockets = [stack.enter_context(_listen(option, port)) for option, port in wanted.items()]
        return [listener.getsockname()[1] for listener in sockets]


def is_listening(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


def _listen(option: str, port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError:
        raise PortTakenError(
            f"Port {port} is taken or not allowed. Choose another port with {option}."
        ) from None
