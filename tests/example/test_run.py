from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from demo_ports import HOST, choose_ports, is_listening
from ilert_standin import Options
from tests.example.welcome import welcome_of

RUN = Path(__file__).parents[2] / "example_project" / "run.py"
STEPS = [
    "Log in: Hello, demo.",
    "Connect: account 1 is grace @ acme",
    "Read /api/users/current: Grace Demo (grace, ADMIN)",
    "List alert sources: 2 found",
    "Ask for more access: ",
    "Create an alert source: 3 found",
    "Ask when ilert refuses: ",
    "List schedules: 23 found",
    "Expire the access token: ",
    "Refresh by the command: 1 refreshed, 0 failed",
    "Revoke at the stand-in: ",
    "Notice by the command: exit 1: ",
    "Reconnect: still account 1, connected",
    "Disconnect: ",
]


def environment(**extra: str) -> dict[str, str]:
    """As on a machine where nothing is configured; empty, so that no ``.env`` is asked."""
    names = {"ILERT_CLIENT_ID": "", "ILERT_CLIENT_SECRET": ""} | extra
    return {name: text for name, text in os.environ.items() if name != "DATABASE_URL"} | names


def run(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, RUN, *arguments],
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=60,
    )


@contextmanager
def running_example(folder: Path, *ports: int) -> Iterator[subprocess.Popen[str]]:
    arguments = ["--port", str(ports[0]), "--ilert-port", str(ports[1]), "--folder", str(folder)]
    with (
        open(folder / "errors", "w") as errors,
        subprocess.Popen(
            [sys.executable, RUN, *arguments],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


def test_once_does_every_step_of_the_walkthrough_and_shows_no_secret() -> None:
    configured = {"ILERT_CLIENT_ID": "another", "ILERT_CLIENT_SECRET": "another-secret"}
    ended = run("--once", **configured)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    assert len(lines) == len(STEPS)
    for number, (line, step) in enumerate(zip(lines, STEPS, strict=True), start=1):
        assert line.strip().startswith(f"{number}. {step}")
    secrets = ["eyJ", "code=", "state=", "gAAAA", "another-secret", Options().client_secret]
    assert not [secret for secret in secrets if secret in ended.stdout + ended.stderr]
    assert ended.stderr == ""


def test_a_taken_port_is_named_with_the_option_that_chooses_another(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run("--port", "0", "--ilert-port", port, "--folder", str(tmp_path))

    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert port in ended.stderr
    assert ended.stderr.endswith("Choose another port with --ilert-port.\n")


def test_half_of_the_credentials_is_refused() -> None:
    ended = run(ILERT_CLIENT_ID="some-id")

    error = "Set both ILERT_CLIENT_ID and ILERT_CLIENT_SECRET, or neither.\n"
    assert (ended.returncode, ended.stderr) == (2, error)


def test_what_the_example_keeps_is_for_nobody_else_and_ctrl_c_ends_all_of_it(
    tmp_path: Path,
) -> None:
    ports = choose_ports({"site": 0, "stand-in": 0})
    tmp_path.chmod(0o755)
    with running_example(tmp_path, *ports) as process:
        welcome = welcome_of(process)
        assert f"http://{HOST}:{ports[0]}/" in welcome
        assert all(map(is_listening, ports))
        kept = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0

    assert not any(map(is_listening, ports))
    assert "Traceback" not in (tmp_path / "errors").read_text()
    del kept["errors"]
    assert len(kept) >= 2
    assert set(kept.values()) == {0o600}


def test_the_example_shows_its_pages_and_logs_no_query_until_it_is_terminated(
    tmp_path: Path,
) -> None:
    ports = choose_ports({"site": 0, "stand-in": 0})
    with running_example(tmp_path, *ports) as process:
        welcome_of(process)
        site = f"http://{HOST}:{ports[0]}"
        with requests.Session() as browser:
            browser.trust_env = False
            assert "Example site" in browser.get(f"{site}/", timeout=10).text
            style = browser.get(f"{site}/static/ilert_oauth/style.css", timeout=10)
            assert style.headers["Content-Type"] == "text/css"
            callback = browser.get(f"{site}/ilert/callback/?code=abc&state=def", timeout=10)
            assert callback.url.startswith(f"{site}/login/")
        process.terminate()
        assert process.wait(10) == 0

    log = (tmp_path / "errors").read_text()
    assert re.search(r'"GET /ilert/callback/ HTTP/1\.1" 302', log)
    assert "abc" not in log
