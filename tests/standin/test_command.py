import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest
import requests

import ilert_standin
from ilert_standin import Options
from ilert_standin.__main__ import parser
from tests.support.app_client import CLIENT_ID, CLIENT_SECRET, REDIRECT_URI, AppClient

FOLDER = Path(ilert_standin.__file__).parent.parent


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "ilert_standin", *arguments]


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        command("--port", "0", *arguments), cwd=FOLDER, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process.stderr:
        try:
            found = re.search(r"http://127\.0\.0\.1:\d+", process.stderr.readline())
            assert found is not None
            yield process, found[0]
        finally:
            process.kill()
            process.wait()


def end(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """What it wrote after the first line."""
    process.send_signal(number)
    assert process.wait(timeout=5) == 0
    assert process.stderr is not None
    return process.stderr.read()


def test_the_flags_are_the_options() -> None:
    with (
        running(
            *("--client-id", CLIENT_ID, "--client-secret", CLIENT_SECRET),
            *("--redirect-uri", "https://first.example/", "--redirect-uri", REDIRECT_URI),
            *("--access-token-lifetime", "9", "--refresh-token-lifetime", "0", "--rotate"),
            *("--detect-reuse", "--fault", "revoke:503:2", "--fault", "users/current:html"),
        ) as (_, base_url),
        requests.Session() as http,
    ):
        client = AppClient(base_url, http)
        tokens = client.connect()
        assert tokens["expires_in"] == 9
        assert "refresh_token_expires_in" not in tokens
        rotated = client.refresh(tokens["refresh_token"]).json()["refresh_token"]
        assert client.refresh(tokens["refresh_token"]).status_code == 401
        assert client.refresh(rotated).status_code == 401
        statuses = [client.post("revoke", {"token": "x"}).status_code for _ in range(3)]
        assert statuses == [503, 503, 200]


def test_it_logs_a_short_line_a_request_and_never_a_secret() -> None:
    with running("--fault", "revoke:drop") as (process, base_url):
        query = "?code=a-code&state=a-state"
        requests.get(f"{base_url}/nowhere{query}", timeout=5)
        form = {"client_secret": "a-secret"}
        requests.post(f"{base_url}/api/developers/oauth2/token", data=form, timeout=5)
        with pytest.raises(requests.ConnectionError):
            requests.post(f"{base_url}/api/developers/oauth2/revoke", data=form, timeout=5)
        with socket.create_connection(("127.0.0.1", int(base_url.rpartition(":")[2]))) as raw:
            raw.sendall(b"GET /a-secret not-http\r\n\r\n")
            assert b"400" in raw.recv(1000)
        lines = end(process, signal.SIGTERM).splitlines()
    assert lines == [
        "GET /nowhere 404",
        "POST /api/developers/oauth2/token 400",
        "POST /api/developers/oauth2/revoke dropped",
        "- - 400",
    ]


def test_more_clients_and_a_prefix_are_flags() -> None:
    other = ("other-client", "other-secret", "https://one.example/", REDIRECT_URI)
    with (
        running("--url-prefix", "some/ilert/", "--client", *other) as (_, base_url),
        requests.Session() as http,
    ):
        client = AppClient(f"{base_url}/some/ilert", http)
        code = client.code(client_id="other-client")
        credentials = {"client_id": "other-client", "client_secret": "other-secret"}
        assert client.exchange(code, **credentials).status_code == 200


def test_the_help_names_every_option() -> None:
    told = parser().format_help()
    named = {"redirect_uris": "--redirect-uri URI", "more_clients": "--client ID SECRET URI"}
    for option in fields(Options):
        flag = f"--{option.name.replace('_', '-')}"
        assert named.get(option.name, flag) in told


def test_ctrl_c_ends_it_quietly() -> None:
    with running() as (process, _):
        assert end(process, signal.SIGINT) == ""


def test_a_taken_port_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = subprocess.run(
            command("--port", port), cwd=FOLDER, capture_output=True, text=True, timeout=10
        )
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "--port" in result.stderr
    assert port in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--port", "70000"], "--port"),
        (["--client", "an-id", "a-secret"], "--client takes an id, a secret and one redirect URI"),
        (["--client-error", "teapot"], "--client-error"),
        (["--fault", "tokens:500"], "PATH is one of authorize, token"),
        (["--fault", "token:teapot"], "WHAT is an HTTP error status or one of html"),
    ],
)
def test_a_wrong_flag_is_told(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
