"""The stand-in over real HTTP, people of the site, and their accounts."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone

from django_ilert_oauth import signals
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth import transport
from django_ilert_oauth.testing import connected_account
from ilert_standin import Options, StandIn, serve
from ilert_standin.browser import authorize
from tests.support.other_callers import Acting
from tests.support.own_signals import end_at_time_limit, ignore
from tests.support.quick_flush import flush_quickly
from tests.support.request_monitor import RequestMonitor, monitor_before

pytest_plugins = ["django_ilert_oauth.pytest_plugin"]


#: Of these, ``--one-case`` keeps every case: each is another way to meet the database.
EVERY_CASE = (
    "tests/flows/test_concurrency.py",
    "tests/flows/test_lease.py",
    "tests/flows/test_storing.py",
    "tests/flows/test_transactions.py",
    "tests/ledger/",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--one-case", action="store_true", help="of most tests, only the first case")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("one_case"):
        by_name = sorted(items, key=lambda item: item.nodeid)
        first = {item.nodeid.partition("[")[0]: item for item in reversed(by_name)}
        chosen = set(first.values())
        items[:] = [it for it in items if it in chosen or it.nodeid.startswith(EVERY_CASE)]


CALLBACK = "http://testserver/ilert/callback/"
AccountFactory = Callable[..., ConnectedAccount]
People = Callable[..., list[ConnectedAccount]]

#: Need what other tests do without: only where they are named, as `tox run -e browser` does.
collect_ignore = ["browser", "trackers"]


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> None:
    flush_quickly(connection)


@pytest.fixture(scope="session")
def running_standin() -> Iterator[tuple[StandIn, str]]:
    standin = StandIn(
        Options(client_id="the-client", client_secret="the-client-secret", redirect_uris=[CALLBACK])
    )
    with serve(standin) as url:
        yield standin, url


@pytest.fixture
def ilert(running_standin: tuple[StandIn, str], settings: Any) -> StandIn:
    """The stand-in, fresh, and the settings that lead to it."""
    standin, url = running_standin
    standin.reset()
    settings.ILERT_OAUTH_APP_URL = settings.ILERT_OAUTH_API_URL = url
    settings.ILERT_OAUTH_TENANT_URL = url + "/t/{tenant}"
    return standin


@pytest.fixture
def user(db: None) -> User:
    return User.objects.create_user("site-user")


@pytest.fixture
def browser(user: User) -> Client:
    """Logged in, with CSRF enforced as in a real one."""
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def make_account(ilert: StandIn, user: User, settings: Any) -> AccountFactory:
    """An account connected yesterday whose tokens the stand-in knows; keywords are columns."""
    yesterday = timezone.now() - timedelta(days=1)

    def make(**columns: Any) -> ConnectedAccount:
        columns = {
            "user": user,
            "granted_scope": "profile source:w",
            "username": "grace",
            "connected_at": yesterday,
            **columns,
        }
        scope = str(columns["granted_scope"])
        tokens = ilert.issue_tokens("acme", str(columns["username"]), scope)
        known: dict[str, Any] = {kind: tokens[kind] for kind in ("access_token", "refresh_token")}
        return connected_account(**{"scopes": scope, **known, **columns})

    return make


def spoil(account: ConnectedAccount) -> ConnectedAccount:
    """No key opens it any more."""
    account.access_token_ciphertext = account.refresh_token_ciphertext = "broken"
    account.save()
    return account


@pytest.fixture
def people(make_account: AccountFactory) -> People:
    def make(count: int, **columns: Any) -> list[ConnectedAccount]:
        return [make_account(username=f"user-{number}", **columns) for number in range(count)]

    return make


@pytest.fixture
def monitor(ilert: StandIn, settings: Any) -> Iterator[RequestMonitor]:
    with monitor_before(ilert, settings) as monitor:
        yield monitor


@pytest.fixture
def spared() -> Iterator[None]:
    """Handlers of ours, so that a signal that a command does not handle ends nothing."""
    before = {number: signal.signal(number, ignore) for number in (SIGINT, SIGTERM, SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def time_limit() -> Iterator[Callable[[], None]]:
    """Called, it raises ``TimeLimitError`` there, from the handler of a signal."""
    before = signal.signal(SIGUSR1, end_at_time_limit)
    yield lambda: signal.raise_signal(SIGUSR1)
    signal.signal(SIGUSR1, before)


@pytest.fixture
def account(make_account: AccountFactory) -> ConnectedAccount:
    return make_account()


@pytest.fixture
def expired_account(make_account: AccountFactory) -> ConnectedAccount:
    return make_account(access_token_expires_at=timezone.now() - timedelta(minutes=1))


@pytest.fixture
def during_request(
    ilert: StandIn, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> Callable[..., None]:
    """Something happens before a request to ilert, or after its response: see ``Acting``."""

    def mount(**acts: Any) -> None:
        monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, Acting(**acts))

    return mount


@pytest.fixture
def connect(browser: Client, ilert: StandIn) -> Callable[..., Any]:
    """Walks from the button to the callback, and returns the site's last response."""

    def walk(
        *, tenant: str = "acme", username: str = "grace", allow: bool = True, **form: Any
    ) -> Any:
        leave: Any = browser.post("/ilert/connect/", form)
        callback = authorize(leave.url, tenant=tenant, username=username, allow=allow)
        return browser.get(callback)

    return walk


@pytest.fixture
def sent() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Each signal of the app that was sent, as its name and what came with it."""
    seen: list[tuple[str, dict[str, Any]]] = []
    names = ["account_connected", "account_refreshed", "account_recovered"]
    names += ["account_refresh_failed", "account_revoked"]
    receivers = {name: _recorder(seen, name) for name in names}
    for name, receiver in receivers.items():
        getattr(signals, name).connect(receiver)
    yield seen
    for name, receiver in receivers.items():
        getattr(signals, name).disconnect(receiver)


def _recorder(seen: list[tuple[str, dict[str, Any]]], name: str) -> Callable[..., None]:
    def record(**kwargs: Any) -> None:
        seen.append((name, {k: v for k, v in kwargs.items() if k not in ("signal", "sender")}))

    return record


@pytest.fixture
def root(db: None) -> Client:
    """In the admin, with every permission."""
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client
