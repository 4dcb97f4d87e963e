"""A shell in a folder with a virtual environment, for lines as they are printed."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from subprocess import PIPE, STDOUT

from demo_ports import is_listening

SECONDS = 60
#: pip may have to wait for its index.
LONGEST = 600
OURS = ("DJANGO_", "ILERT_", "PYTHON", "VIRTUAL_ENV")
KEPT = ("ILERT_", "PATH", "VIRTUAL_ENV")


class Shell:
    """Remembers what a line exports, as a shell does that stays open."""

    def __init__(self, folder: Path, **environment: str) -> None:
        outer = {name: text for name, text in os.environ.items() if not name.startswith(OURS)}
        self.folder = folder
        self.environment = outer | environment

    def run(self, line: str, *, may_fail: bool = False) -> str:
        """What it prints, its errors too."""
        after = self.folder / "environment"
        keep = f"\nenv -0 > {quote(str(after))}"
        with self._started(line, keep, stdout=PIPE, stderr=STDOUT) as process:
            printed = process.communicate(timeout=LONGEST)[0].decode()
        print(printed, end="", flush=True)
        if may_fail:
            return printed
        assert process.returncode == 0, f"exit {process.returncode}"
        exported = dict(item.split("=", 1) for item in after.read_text().split("\0") if item)
        self.environment |= {name: exported[name] for name in exported if name.startswith(KEPT)}
        return printed

    def run_dialog(self, line: str, replies: Mapping[str, str]) -> None:
        """For a line that asks at a terminal: each prompt and what is typed."""
        ours, theirs = pty.openpty()
        with self._started(line, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            # Else reading would wait for ever, once the process has ended.
            os.close(theirs)
            seen = ""
            for prompt, text in replies.items():
                while prompt not in seen:
                    seen += os.read(ours, 1024).decode()
                os.write(ours, f"{text}\n".encode())
                seen = seen.partition(prompt)[2]
            process.wait(SECONDS)
        os.close(ours)
        assert process.returncode == 0, f"exit {process.returncode}"

    @contextmanager
    def serving(self, line: str, port: int) -> Iterator[None]:
        with self._started(line) as process:
            deadline = time.monotonic() + SECONDS
            while not is_listening(port):
                assert process.poll() is None, f"exit {process.returncode}"
                assert time.monotonic() < deadline, "it does not listen"
                time.sleep(0.1)
            yield

    @contextmanager
    def _started(
        self,
        line: str,
        then: str = "",
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> Iterator[subprocess.Popen[bytes]]:
        print(f"$ {line}", flush=True)
        # The site's own lines fail at a warning; pip and others may warn.
        strict = {"PYTHONWARNINGS": "error"} if "manage.py" in line else {}
        process = subprocess.Popen(
            ["/bin/bash", "-e", "-c", line + then],
            cwd=self.folder,
            env=self.environment | strict,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                # With what it has started: runserver has a second process.
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(SECONDS)
