"""Where secrets go, and how much is read of what comes back: over real sockets."""

from __future__ import annotations

import ast
import gzip
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread, enumerate
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
from django_ilert_oauth.oauth.client import IlertClient
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.oauth.transport import clock
from django_ilert_oauth.session import IlertSession
from tests.conftest import AccountFactory
from tests.support.raw_server import RawServer, raw_server, saying

PACKAGE = Path(django_ilert_oauth.__file__).parent
SECRET = Secret("a-secret-that-must-not-arrive")
CALLS: dict[str, Callable[[IlertClient], object]] = {
    "exchange_code": lambda ilert: ilert.exchange_code(SECRET, SECRET),
    "refresh": lambda ilert: ilert.refresh(SECRET),
    "token_info": lambda ilert: ilert.token_info(SECRET),
    "current_user": lambda ilert: ilert.current_user(SECRET),
    "revoke": lambda ilert: ilert.revoke(SECRET),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def ask(api_url: str, call: Callable[[IlertClient], object] = CALLS["refresh"]) -> object:
    with IlertClient(
        api_url=api_url, client_id="the-client", client_secrets=[Secret("secret")], timeout=(5, 5)
    ) as ilert:
        return call(ilert)


def unavailable(api_url: str, call: Callable[[IlertClient], object]) -> IlertUnavailableError:
    with pytest.raises(IlertUnavailableError) as caught:
        ask(api_url, call)
    return caught.value


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


@each_call
@pytest.mark.parametrize(("head", "piece"), BOMBS.values(), ids=BOMBS)
def test_a_response_without_an_end_is_read_up_to_a_bound(
    call: Callable[[IlertClient], object], head: bytes, piece: bytes
) -> None:
    sent: list[int] = []
    with raw_server(endless(head, piece, sent)) as server:
        error = unavailable(server.url, call)
    assert error.code == "unusable_response"
    assert sum(sent) < MOST_SENT


@each_call
@pytest.mark.parametrize("layers", [1, 2])
def test_a_gzip_bomb_is_unpacked_up_to_a_bound(
    call: Callable[[IlertClient], object], layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = b" " * 30_000_000
    for _ in range(layers):
        bomb = gzip.compress(bomb, compresslevel=6)
    encoding = ", ".join(["gzip"] * layers).encode()
    head = HEAD + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (encoding, len(bomb))
    parsed: list[object] = []
    monkeypatch.setattr(responses, "_parse_object", parsed.append)
    with raw_server(lambda connection, _: connection.sendall(head + bomb)) as server:
        assert unavailable(server.url, call).code == "unusable_response"
    assert parsed == []


@each_call
def test_headers_without_an_end_are_read_up_to_a_bound(
    call: Callable[[IlertClient], object],
) -> None:
    sent: list[int] = []
    with raw_server(endless(b"", b"X-Pad: " + b"x" * 1000 + b"\r\n", sent)) as server:
        unavailable(server.url, call)
    assert sum(sent) < MOST_SENT


def test_no_cookie_of_one_account_goes_with_the_request_of_the_next() -> None:
    """A run over many accounts keeps one client."""
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nSet-Cookie: who=grace\r\n"
    with raw_server(saying(head + b"Content-Length: 2\r\n\r\n{}")) as server:
        ask(server.url, lambda ilert: [CALLS["revoke"](ilert) for _ in range(2)])
        assert [b"who=grace" in request for request in server.received] == [False] * 2


# TLS


class TlsServer:
    """Whose certificate nobody has signed; keeps what arrives inside of TLS."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "certificate.pem"
        self.certificate.write_bytes(_certificate())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        self.received: list[bytes] = []
        #: What is received is responded to once it is set.
        self.responds = Event()
        self.responds.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = Thread(target=self._serve, args=(context,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.responds.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self, context: ssl.SSLContext) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            with suppress(OSError), context.wrap_socket(connection, server_side=True) as inside:
                self.received.append(inside.recv(65536))
                self.responds.wait(5)
                inside.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


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
def tls_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TlsServer]:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = TlsServer(tmp_path)
    yield server
    server.close()


@each_call
def test_a_certificate_that_nobody_signed_gets_no_secret_and_is_named_in_the_log(
    tls_server: TlsServer,
    call: Callable[[IlertClient], object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(IlertUnavailableError) as caught:
        ask(tls_server.url, call)
    assert caught.value.code == "unreachable"
    assert tls_server.received == []
    assert "ilert could not be reached: SSLError (SSLCertVerificationError)" in caplog.messages


def test_a_certificate_for_another_host_gets_no_secret(
    tls_server: TlsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tls_server.certificate))
    monkeypatch.setenv("NO_PROXY", "localhost")
    with pytest.raises(IlertUnavailableError):
        ask(tls_server.url.replace("127.0.0.1", "localhost"))
    assert tls_server.received == []


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_site_may_trust_a_certificate_authority_of_its_own(
    tls_server: TlsServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(tls_server.certificate))
    ask(tls_server.url, CALLS["current_user"])
    assert b"a-secret-that-must-not-arrive" in tls_server.received[0]


def test_a_response_within_tls_is_waited_for_until_the_deadline_only(
    tls_server: TlsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tls_server.certificate))
    tls_server.responds.clear()
    with pytest.raises(IlertUnavailableError) as caught:
        ask(tls_server.url, lambda ilert: ilert.refresh(SECRET, deadline=clock() + 0.5))
    assert caught.value.code == "timeout"
    for thread in enumerate():
        if thread.name == "ilert-request":
            thread.join(2)
            assert not thread.is_alive()


def test_a_bundle_that_is_not_there_is_a_documented_error(
    tls_server: TlsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with pytest.raises(IlertOAuthError):
        ask(tls_server.url)
    assert tls_server.received == []


def test_a_session_trusts_no_certificate_that_nobody_signed(
    tls_server: TlsServer, make_account: AccountFactory, settings: Any
) -> None:
    settings.ILERT_OAUTH_API_URL = tls_server.url
    with IlertSession(make_account()) as session, pytest.raises(requests.exceptions.SSLError):
        session.get("/api/users/current")
    assert tls_server.received == []


@pytest.mark.parametrize("name", ["VERIFY", "VERIFY_SSL", "VERIFY_TLS", "INSECURE", "CA_BUNDLE"])
def test_no_setting_switches_the_verification_off(
    tls_server: TlsServer, make_account: AccountFactory, settings: Any, name: str
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
