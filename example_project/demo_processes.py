"""The processes of the demo, none of which outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, Self

from demo_ports import is_listening
from example_site.environment import PROJECT

STARTING_SECONDS = 20
ENDING_SECONDS = 5
COMMAND_SECONDS = 30
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]

MANAGE = [sys.executable, "manage.py"]

Process = subprocess.Popen[bytes]


class ProcessEndedError(Exception):
    pass


class Processes:
    """Servers that are ended together. With a folder, each writes to a log there."""

    def __init__(self, log_folder: Path | None = None) -> None:
        self._log_folder = log_folder
        self._processes: dict[str, Process] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        with _uninterrupted():
            for process in self._processes.values():
                process.terminate()
            for process in self._processes.values():
                _wait_or_kill(process)

    def start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        # Else one that was interrupted while it started would be lost sight of.
        with _uninterrupted():
            self._processes[name] = _start(arguments, environment, self._log(name))

    def wait_for(self, name: str, port: int) -> None:
        deadline = time.monotonic() + STARTING_SECONDS
        while not is_listening(port):
            self._require_all()
            if time.monotonic() > deadline:
                raise ProcessEndedError(f"The {name} did not start in {STARTING_SECONDS} s.")
            time.sleep(0.05)

    def watch(self) -> NoReturn:
        """Raises ``ProcessEndedError`` when one has ended."""
        while True:
            self._require_all()
            time.sleep(0.2)

    def log_of(self, name: str) -> str:
        log = self._log(name)
        return log.read_text(errors="replace") if log and log.exists() else ""

    def _log(self, name: str) -> Path | None:
        return self._log_folder and self._log_folder / f"{name}.log"

    def _require_all(self) -> None:
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise ProcessEndedError(f"The {name} has ended (exit code {process.returncode}).")


def run_command(
    environment: Mapping[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """``manage.py`` with these arguments; its two outputs come back as one."""
    return subprocess.run(
        [*MANAGE, *arguments],
        env=environment,
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
        process_group=0,
    )


def be_interruptible() -> None:
    """Every signal to end becomes a ``KeyboardInterrupt``, those that a shell ignored too."""
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    arrived: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _frame: arrived.append(number))
        for number in SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if arrived:
        raise KeyboardInterrupt


def _start(arguments: Sequence[str], environment: Mapping[str, str], log: Path | None) -> Process:
    with open(log or os.devnull, "ab") as output:
        return subprocess.Popen(
            arguments,
            env=environment,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output if log else None,
            # Ctrl-C is for us alone, who end them all.
            process_group=0,
        )


def _wait_or_kill(process: Process) -> None:
    try:
        process.wait(ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
