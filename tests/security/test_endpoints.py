"""Where secrets go, and how much is read of what comes back: over real sockets."""

from __future__ import annotations

import ast
import gzip
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, enumerate
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import django_ilert_oauth
from django_ilert_oauth import flows
from django_ilert_oauth.conf import NAMES
from django_ilert_oauth.exceptions import IlertOAuthError, IlertUnavailableError
from django_ilert_oauth.oauth import responses
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.oauth.transport import clock
from django_ilert_oauth.session import IlertSession
from tests.conftest import AccountFactory
from tests.support import ilert_guide
from tests.support.ilert_calls import CALLS, Call, ask, each_call, unavailable
from tests.support.raw_server import RawServer, raw_server, saying

PACKAGE = Path(django_ilert_oauth.__file__).parent
each_kind = pytest.mark.parametrize("call", [CALLS["refresh"], CALLS["current_user"]])


# Responses without an end

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNK = b" " * 65536
BOMBS: dict[str, tuple[bytes, bytes]] = {
    "without a length": (b"\r\n", CHUNK),
    "chunked": (b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + CHUNK + b"\r\n"),
    "of a lying length": (b"Content-Length: 999999999999\r\n\r\n", CHUNK),
}
#: Sockets hold some of it, too.
MOST_SENT = 30 * 1024 * 1024


def endless(head: bytes, piece: bytes, sent: list[int]) -> Callable[[socket.socket, Any], None]:
    def send(connection: socket.socket, server: RawServer) -> None:
        connection.sendall(HEAD + head)
        while sum(sent) < MOST_SENT and not server.over.is_set():
            connection.sendall(piece)
            sent.append(len(piece))

    return send


@each_kind
@pytest.mark.parametrize(("head", "piece"), BOMBS.values(), ids=BOMBS)
def test_a_response_without_an_end_is_read_up_to_a_bound(
    call: Call, head: bytes, piece: bytes
) -> None:
    sent: list[int] = []
    with raw_server(endless(head, piece, sent)) as server:
        error = unavailable(call, api_url=server.url)
    assert error.code == "unusable_response"
    assert sum(sent) < MOST_SENT


@each_kind
@pytest.mark.parametrize("layers", [1, 2])
def test_a_gzip_bomb_is_unpacked_up_to_a_bound(
    call: Call, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = b" " * 30_000_000
    for _ in range(layers):
        bomb = gzip.compress(bomb, compresslevel=6)
    encoding = ", ".join(["gzip"] * layers).encode()
    head = HEAD + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (encoding, len(bomb))
    parsed: list[object] = []
    monkeypatch.setattr(responses, "_parse_object", parsed.append)
    with raw_server(lambda connection, _: connection.sendall(head + bomb)) as server:
        assert unavailable(call, api_url=server.url).code == "unusable_response"
    assert parsed == []


@each_kind
def test_headers_without_an_end_are_read_up_to_a_bound(call: Call) -> None:
    sent: list[int] = []
    with raw_server(endless(b"", b"X-Pad: " + b"x" * 1000 + b"\r\n", sent)) as server:
        unavailable(call, api_url=server.url)
    assert sum(sent) < MOST_SENT


def test_no_cookie_of_one_account_goes_with_the_request_of_the_next() -> None:
    """A run over many accounts keeps one client."""
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nSet-Cookie: who=grace\r\n"
    with raw_server(saying(head + b"Content-Length: 2\r\n\r\n{}")) as server:
        ask(lambda ilert: [CALLS["revoke"](ilert) for _ in range(2)], api_url=server.url)
        assert [b"who=grace" in request for request in server.received] == [False] * 2


# TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Which nobody has signed."""
    path = tmp_path / "certificate.pem"
    path.write_bytes(_certificate())
    return path


def _certificate() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    unlocked = serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, unlocked)
    return private + signed.public_bytes(pem)


@pytest.fixture
def responds() -> Event:
    """What is received is responded to once it is set."""
    event = Event()
    event.set()
    return event


@pytest.fixture
def tls_server(
    certificate: Path, responds: Event, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RawServer]:
    """Keeps what arrives inside of TLS."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def reply(connection: socket.socket, _server: RawServer) -> None:
        responds.wait(5)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with raw_server(reply, context) as server:
        yield server
        responds.set()


@each_call
def test_a_certificate_that_nobody_signed_gets_no_secret_and_is_named_in_the_log(
    tls_server: RawServer, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    assert unavailable(call, api_url=tls_server.url).code == "unreachable"
    assert tls_server.received == []
    assert "ilert could not be reached: SSLError (SSLCertVerificationError)" in caplog.messages


def test_a_certificate_for_another_host_gets_no_secret(
    tls_server: RawServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setenv("NO_PROXY", "localhost")
    unavailable(api_url=tls_server.url.replace("127.0.0.1", "localhost"))
    assert tls_server.received == []


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_site_may_trust_a_certificate_authority_of_its_own(
    tls_server: RawServer, certificate: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(certificate))
    ask(CALLS["current_user"], api_url=tls_server.url)
    assert ilert_guide.ACCESS_TOKEN.encode() in tls_server.received[0]


def test_a_response_within_tls_is_waited_for_until_the_deadline_only(
    tls_server: RawServer, certificate: Path, responds: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    responds.clear()
    token = Secret(ilert_guide.REFRESH_TOKEN)
    error = unavailable(
        lambda ilert: ilert.refresh(token, deadline=clock() + 0.3), api_url=tls_server.url
    )
    assert error.code == "timeout"
    for thread in enumerate():
        if thread.name == "ilert-request":
            thread.join(2)
            assert not thread.is_alive()


def test_a_bundle_that_is_not_there_is_a_documented_error(
    tls_server: RawServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with pytest.raises(IlertOAuthError):
        ask(api_url=tls_server.url)
    assert tls_server.received == []


def test_a_session_trusts_no_certificate_that_nobody_signed(
    tls_server: RawServer, make_account: AccountFactory, settings: Any
) -> None:
    settings.ILERT_OAUTH_API_URL = tls_server.url
    with IlertSession(make_account()) as session, pytest.raises(requests.exceptions.SSLError):
        session.get("/api/users/current")
    assert tls_server.received == []


@pytest.mark.parametrize("name", ["VERIFY", "VERIFY_SSL", "VERIFY_TLS", "INSECURE", "CA_BUNDLE"])
def test_no_setting_switches_the_verification_off(
    tls_server: RawServer, make_account: AccountFactory, settings: Any, name: str
) -> None:
    settings.ILERT_OAUTH_API_URL = tls_server.url
    setattr(settings, f"ILERT_OAUTH_{name}", name == "INSECURE")
    with pytest.raises(IlertUnavailableError):
        flows.refresh(make_account())
    assert tls_server.received == []
    assert f"ILERT_OAUTH_{name}" not in NAMES


def test_no_line_of_the_app_says_how_certificates_are_verified() -> None:
    """So neither a setting nor an argument of the app can reach it."""
    named = {
        f"{path.name}: {ast.unparse(node)}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if getattr(node, "arg", getattr(node, "attr", "")) in ("verify", "cert", "check_hostname")
    }
    assert named == set()
