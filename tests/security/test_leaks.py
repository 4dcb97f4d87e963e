"""Tokens that can page all engineers of a company are passwords: they show up nowhere.

Each run connects, refreshes, checks, ends or moves a grant while something breaks, and then every
place that could show a secret is searched for pieces of all that the run had.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
import requests
from asgiref.sync import async_to_sync
from celery import Celery
from celery.exceptions import Retry
from django.contrib.auth.models import User
from django.test import override_settings
from django.utils import timezone

from django_ilert_oauth import flows, tasks
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth import transport
from django_ilert_oauth.session import IlertSession
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory
from tests.support import breaking_site
from tests.support.celery_app import current_app
from tests.support.failing_database import refused_by_database
from tests.support.raw_server import raw_server, saying
from tests.support.scripted_adapter import echo, elsewhere, interrupted
from tests.support.watched_site import ADMIN, CONNECT, World

Verb = Callable[[World], object]
Failure = Callable[[World], AbstractContextManager[object]]


@pytest.fixture(autouse=True, scope="module")
def _breaking_site() -> Iterator[None]:
    """For all tests at once: after a change of these, Django compiles each template again."""
    with override_settings(DEBUG=True, ROOT_URLCONF=breaking_site.__name__):
        yield


@pytest.fixture
def world(
    ilert: StandIn, user: User, make_account: AccountFactory, settings: Any
) -> Iterator[World]:
    world = World(ilert, user, make_account, settings)
    with world.watched():
        yield world


def account_of(world: World) -> ConnectedAccount:
    return ConnectedAccount.objects.get(user=world.user)


def callback(world: World) -> None:
    world.visit(world.browser.get(world.callback_url))


def start(world: World) -> None:
    world.visit(world.browser.post(CONNECT))


def admin_action(name: str) -> Verb:
    def act(world: World) -> None:
        pks = list(ConnectedAccount.objects.values_list("pk", flat=True))
        form = {"action": name, "_selected_action": pks}
        world.visit(world.root.post(ADMIN, form))
        world.visit(world.root.post(ADMIN, {**form, "post": "yes"}, follow=True))

    return act


def command(name: str, *options: str) -> Verb:
    return lambda world: world.run(name, *options)


def bulk(world: World) -> object:
    return flows.refresh_many(ConnectedAccount.objects.all(), force=True)


def task(world: World) -> None:
    outcome = tasks.refresh_account.apply(args=(account_of(world).pk,))
    world.hunt.look_at("task", f"{outcome.result!r} {outcome.traceback} {vars(outcome)}")


def use(world: World) -> object:
    """What a server sends back is the caller's: only the status is looked at."""
    with IlertSession(account_of(world), max_wait=0) as session:
        world.hunt.look_at_object("session", session)
        return session.get("/api/users/current").status_code


def use_with_old_token(world: World) -> object:
    ConnectedAccount.objects.update(access_token_expires_at=timezone.now() - timedelta(seconds=1))
    return use(world)


def use_and_raise(world: World) -> object:
    with IlertSession(account_of(world), max_wait=0) as session:
        response = session.get("/api/users/current")
        world.hunt.look_at_object("response", response)
        response.raise_for_status()
        return list(session.list("/api/alert-sources"))


def revoke_pending(world: World) -> object:
    flows.disconnect(account_of(world))
    return flows.revoke_pending()


def delete(world: World) -> None:
    account_of(world).delete()


def disconnect(world: World) -> None:
    world.visit(world.browser.post(f"/ilert/{account_of(world).pk}/disconnect/"))


def rotate(world: World) -> object:
    keys = world.settings.ILERT_OAUTH_ENCRYPTION_KEYS
    world.settings.ILERT_OAUTH_ENCRYPTION_KEYS = [world.new_key(), *keys]
    return flows.rotate_keys()


def rotate_by_command(world: World) -> None:
    rotate(world)
    world.run("rotate_ilert_keys")
    world.run("rotate_ilert_keys", "--dry-run")


REFRESH_COMMAND = ("refresh_ilert_tokens", "--force", "--within=30d")

VERBS: dict[str, Verb] = {
    "start": start,
    "start by flow": lambda world: len(flows.start_connect(world.request("/"))),
    "connect": callback,
    "connect by flow": lambda world: flows.finish_connect(world.request(world.callback_url)),
    "reconnect": callback,
    "refresh": lambda world: flows.refresh(account_of(world), force=True),
    "refresh in async code": lambda world: async_to_sync(flows.arefresh)(
        account_of(world), force=True
    ),
    "bulk refresh": bulk,
    "refresh by command": command(*REFRESH_COMMAND),
    "refresh by command as JSON": command(*REFRESH_COMMAND, "--json"),
    "refresh by command, dry run": command(*REFRESH_COMMAND, "--dry-run"),
    "refresh by task": task,
    "refresh in the admin": admin_action("refresh_accounts"),
    "check": lambda world: flows.check(account_of(world)),
    "check in the admin": admin_action("check_accounts"),
    "check by command": command("check_ilert_accounts"),
    "check by command as JSON": command("check_ilert_accounts", "--json"),
    "check by command, dry run": command("check_ilert_accounts", "--dry-run"),
    "use": use,
    "use with an old token": use_with_old_token,
    "use and raise": use_and_raise,
    "disconnect": disconnect,
    "revoke pending": revoke_pending,
    "disconnect in the admin": admin_action("disconnect_accounts"),
    "delete": delete,
    "rotate": rotate,
    "rotate by command": rotate_by_command,
}
#: What they leave behind is all that there can be on a page or in the database.
EVERY_STATE = {"start", "connect", "reconnect", "refresh", "check", "revoke pending", "delete"}
EVERY_STATE |= {"disconnect in the admin", "rotate"}
WITHOUT_ACCOUNT = {"start", "start by flow", "connect", "connect by flow"}
WITH_CALLBACK = {"connect", "connect by flow", "reconnect"}
ENDPOINTS = {
    "connect": ["/token", "/token_info", "/current"],
    "connect by flow": ["/token", "/token_info"],
    "reconnect": ["/token_info", "/revoke"],
    "refresh": ["/token"],
    "refresh in async code": ["/token"],
    "bulk refresh": ["/token"],
    "refresh by command": ["/token"],
    "refresh by task": ["/token"],
    "refresh in the admin": ["/token"],
    "check": ["/token_info"],
    "check by command": ["/token_info"],
    "use": ["/current"],
    "use with an old token": ["/token"],
    "revoke pending": ["/revoke"],
    "disconnect": ["/revoke"],
    "delete": ["/revoke"],
}


def travelling(make: Callable[[str], Any]) -> Callable[[str], Failure]:
    def at(endpoint: str) -> Failure:
        @contextmanager
        def mounted(world: World) -> Iterator[None]:
            url = world.settings.ILERT_OAUTH_API_URL
            transport.adapters[url] = make(endpoint)
            try:
                yield
            finally:
                del transport.adapters[url]

        return mounted

    return at


def standin_fault(fault: Fault) -> Callable[[str], Failure]:
    def at(endpoint: str) -> Failure:
        name = endpoint.removeprefix("/").replace("current", "users/current")

        def add(world: World) -> AbstractContextManager[None]:
            world.ilert.add_fault(name, fault, times=None)
            return nullcontext()

        return add

    return at


def raising(error: BaseException) -> Callable[[str], Failure]:
    return travelling(lambda endpoint: interrupted(endpoint, error))


def echoing(status: int) -> Callable[[str], Failure]:
    return travelling(lambda endpoint: echo(endpoint, status))


FAILURES: dict[str, Callable[[str], Failure]] = {
    "echo with 400": echoing(400),
    "an unexpected error": raising(OSError("no such CA bundle")),
}
#: Endings of a worker among them, which no ``except Exception`` catches.
MORE_FAILURES: dict[str, Callable[[str], Failure]] = {
    "echo with 200": echoing(200),
    "echo with 307": echoing(307),
    "echo with 401": echoing(401),
    "echo with 403": echoing(403),
    "echo with 429": echoing(429),
    "echo with 500": echoing(500),
    "echo as HTML": travelling(lambda endpoint: echo(endpoint, 502, as_html=True)),
    "a library's error": raising(requests.ConnectionError("connection lost")),
    "a timeout": raising(requests.ReadTimeout("timed out")),
    "nobody who listens": travelling(elsewhere),
    "dropped": standin_fault(Fault(drop=True)),
    "truncated": standin_fault(Fault(status=200, body='{"access_token": "abcdefghijklmnopqr')),
    "invalid grant": standin_fault(Fault(status=401, body='{"code": "invalid_grant"}')),
    "the end of the worker": raising(SystemExit(1)),
    "Ctrl-C": raising(KeyboardInterrupt()),
}
#: Each failure at these; those at the others are kinds of the same.
FULLY = {("connect by flow", "/token"), ("refresh", "/token"), ("use", "/current")}


def refused(start: str, table: str) -> Failure:
    return lambda world: refused_by_database(start, table)


def setting(name: str, change: Callable[[Any], Any]) -> Failure:
    @contextmanager
    def at(world: World) -> Iterator[None]:
        before = getattr(world.settings, name)
        setattr(world.settings, name, change(before))
        try:
            yield
        finally:
            setattr(world.settings, name, before)

    return at


def responding(endpoint: str, fault: Fault) -> Failure:
    def at(world: World) -> AbstractContextManager[None]:
        world.ilert.add_fault(endpoint, fault, times=None)
        return nullcontext()

    return at


ERROR_RESPONSES = {
    "a 401": Fault(401, '{"code": "UNAUTHORIZED"}'),
    "a 403": Fault(403, '{"code": "OAUTH2_SCOPE_ERROR"}'),
    "a 500": Fault(500),
    "HTML": Fault(200, "<!doctype html>"),
    "a redirect": Fault(302, headers={"Location": "http://127.0.0.1:9/"}),
    "nothing": Fault(drop=True),
}


def callback_with(**changes: str) -> Failure:
    """Where another tab is on its way to ilert."""

    def at(world: World) -> AbstractContextManager[None]:
        world.begin()
        for name, value in changes.items():
            world.callback_url = world.callback_url.replace(f"{name}=", f"{value}")
        return nullcontext()

    return at


def used_before(world: World) -> AbstractContextManager[None]:
    world.begin()
    world.browser.get(world.callback_url)
    return nullcontext()


def session_gone(world: World) -> AbstractContextManager[None]:
    world.browser.logout()
    return nullcontext()


def renamed(world: World) -> AbstractContextManager[object]:
    info = {"active": True, "tenant_id": "acme", "username": "hopper", "scope": "profile"}
    world.ilert.add_fault("token_info", Fault(200, json.dumps(info)), times=None)
    return nullcontext()


def renamed_in_vain(world: World) -> AbstractContextManager[object]:
    renamed(world)
    return refused_by_database("UPDATE", ACCOUNT)


ACCOUNT, SESSION = "connectedaccount", "django_session"
REQUEST = "authorizationrequest"
PENDING = "pendingrevocation"
KEYS, SECRET = "ILERT_OAUTH_ENCRYPTION_KEYS", "ILERT_OAUTH_CLIENT_SECRET"
LOST_KEY = setting(KEYS, lambda keys: ["n9SOr2BMbgmqLgR6nhSKYh2Y9XRyNfl_C_kC-sWmSRE="])
MISCONFIGURED: dict[str, Failure] = {
    "no client secret": setting(SECRET, lambda secret: None),
    "a client secret of bytes": setting(SECRET, lambda secret: secret.encode()),
    "one bad key of two": setting(KEYS, lambda keys: [*keys, keys[0][:-8]]),
    "a string for a list of keys": setting(KEYS, lambda keys: keys[0]),
}
NO_USER = refused("SELECT", "auth_user")
NO_SESSION = refused("SELECT", SESSION)
BEFORE_THE_VIEW = (NO_USER, NO_SESSION)
LOGIN_REQUIRED = "django.contrib.auth.middleware.LoginRequiredMiddleware"
START_FAILURES: dict[str, Failure] = {
    "no session can be read": NO_SESSION,
    "no authorization request can be made": refused("INSERT", REQUEST),
}
FINISH_FAILURES: dict[str, Failure] = {
    "no session can be read": NO_SESSION,
    "no authorization request can be read": refused("SELECT", REQUEST),
    "no authorization request can be consumed": refused("UPDATE", REQUEST),
}
CALLBACK_FAILURES: dict[str, Failure] = {
    "a forged state": callback_with(state="state=forged"),
    "a denial": callback_with(code="error=access_denied&error_description="),
    "an error that echoes the code": callback_with(code="error="),
    "no code": callback_with(code="other="),
    "a replay": used_before,
}
LOCAL_FAILURES: dict[str, dict[str, Failure]] = {
    "start": {"no user can be read": NO_USER},
    "start by flow": START_FAILURES,
    "connect": {
        "no user can be read": NO_USER,
        "no account can be read": refused("SELECT", ACCOUNT),
        "no account can be made": refused("INSERT", ACCOUNT),
        "a lost session": session_gone,
        **FINISH_FAILURES,
        **CALLBACK_FAILURES,
        **MISCONFIGURED,
    },
    "connect by flow": {
        "no account can be made": refused("INSERT", ACCOUNT),
        **FINISH_FAILURES,
        **CALLBACK_FAILURES,
        **MISCONFIGURED,
    },
    "reconnect": {
        "no account can be written": refused("UPDATE", ACCOUNT),
        "no revocation can be kept": refused("INSERT", PENDING),
        "a lost key": LOST_KEY,
    },
    "refresh": {
        "no account can be written": refused("UPDATE", ACCOUNT),
        "no account can be read": refused("SELECT", ACCOUNT),
        "a lost key": LOST_KEY,
        "another ilert": setting("ILERT_OAUTH_API_URL", lambda url: "https://ilert.invalid"),
        **MISCONFIGURED,
    },
    "bulk refresh": {"no account can be written": refused("UPDATE", ACCOUNT)},
    "check": {
        "a new name": renamed,
        "a new name that cannot be written": renamed_in_vain,
        "a lost key": LOST_KEY,
    },
    "use and raise": {
        f"{name} from {endpoint}": responding(endpoint, fault)
        for endpoint in ("users/current", "alert-sources")
        for name, fault in ERROR_RESPONSES.items()
    },
    "disconnect": {
        "no account can be written": refused("UPDATE", ACCOUNT),
        "no revocation can be kept": refused("INSERT", PENDING),
        "no revocation can be ended": refused("DELETE", PENDING),
        **MISCONFIGURED,
    },
    "delete": {"no account can be deleted": refused("DELETE", ACCOUNT)},
    "rotate": {"no account can be written": refused("UPDATE", ACCOUNT)},
    "rotate by command": {"a lost key": LOST_KEY},
}


def runs() -> Iterator[Any]:
    for verb in VERBS:
        yield pytest.param(verb, no_failure, id=f"{verb}, no failure")
        for endpoint in ENDPOINTS.get(verb, []):
            more = MORE_FAILURES if (verb, endpoint) in FULLY else {}
            for name, at in {**FAILURES, **more}.items():
                yield pytest.param(verb, at(endpoint), id=f"{verb}, {name} at {endpoint[1:]}")
        for name, failure in LOCAL_FAILURES.get(verb, {}).items():
            marks = [pytest.mark.django_db(transaction=True)] if "can be" in name else []
            yield pytest.param(verb, failure, id=f"{verb}, {name}", marks=marks)


def no_failure(world: World) -> AbstractContextManager[None]:
    return nullcontext()


@pytest.mark.parametrize(("verb", "failure"), list(runs()))
def test_nothing_leaks(
    world: World,
    verb: str,
    failure: Failure,
    capfd: pytest.CaptureFixture[str],
    django_capture_on_commit_callbacks: Any,
) -> None:
    if verb not in WITHOUT_ACCOUNT:
        world.make_account(access_token_expires_at=timezone.now() + timedelta(minutes=10))
    if verb in WITH_CALLBACK:
        world.callback_url = world.begin()
    world.learn()
    if (
        failure in BEFORE_THE_VIEW
        and verb == "connect"
        and LOGIN_REQUIRED in world.settings.MIDDLEWARE
    ):
        pytest.skip("Django's middleware asks for the user before the callback can do anything.")

    def act() -> object:
        with django_capture_on_commit_callbacks(execute=True):
            return VERBS[verb](world)

    with failure(world):
        world.attempt(act)
    world.sweep(every_page=failure is no_failure and verb in EVERY_STATE)
    world.hunt.look_at("standard output and error", capfd.readouterr())
    leaks = world.leaks()
    assert not leaks, "\n".join(leaks)


LENGTHS = b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize("verb", ["refresh", "use"])
@pytest.mark.parametrize("is_up", [False, True], ids=["down", "odd"])
def test_no_variable_below_a_warning_of_urllib3_holds_a_secret(
    world: World, verb: str, is_up: bool
) -> None:
    with raw_server(saying(b"HTTP/1.1 200 OK\r\n" + LENGTHS + b"\r\n0\r\n\r\n")) as server:
        world.settings.ILERT_OAUTH_API_URL = server.url if is_up else "http://127.0.0.1:9"
        world.make_account()
        world.attempt(lambda: VERBS[verb](world))
    leaks = world.leaks()
    assert not leaks, "\n".join(leaks)


@pytest.mark.parametrize("name", breaking_site.VIEWS)
def test_nothing_leaks_where_a_view_of_the_site_breaks(world: World, name: str) -> None:
    query = ""
    if name == "finish":
        query = world.begin().partition("?")[2]
    elif name != "start":
        world.make_account()
    response = world.browser.get(f"/broken/{name}/?{query}")
    assert (response.status_code, b"SiteError" in response.content) == (500, True)
    world.visit(response)
    world.sweep()
    leaks = world.leaks()
    assert not leaks, "\n".join(leaks)


@pytest.fixture
def celery() -> Iterator[Celery]:
    """Broker and results in this process, and the results of every task are kept."""
    with current_app("leaks", backend="cache+memory://") as app:
        app.conf.update(task_store_eager_result=True, task_store_errors_even_if_ignored=True)
        app.amqp.queues["celery"].bind(app.connection_for_write().default_channel).declare()
        yield app
        take_messages(app)
    app.close()


def take_messages(app: Celery) -> list[Any]:
    with app.connection_for_read() as broker:
        channel: Any = broker.default_channel
        return list(iter(lambda: channel.basic_get("celery", no_ack=True), None))


def test_no_message_to_a_worker_holds_a_secret(
    world: World, celery: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = world.make_account(access_token_expires_at=timezone.now() - timedelta(seconds=1))
    tasks.refresh_expiring_tokens.delay()
    tasks.refresh_expiring_tokens()
    url = world.settings.ILERT_OAUTH_API_URL
    monkeypatch.setitem(transport.adapters, url, echo("/token", 503))
    worked_on: Any = tasks.refresh_account
    worked_on.push_request(id="a", args=[account.pk], called_directly=False)
    with pytest.raises(Retry):
        worked_on.run(account.pk)
    worked_on.pop_request()
    messages = take_messages(celery)
    assert len(messages) == 3
    for message in messages:
        raw = f"{message.body} {message.headers} {message.properties} {message.delivery_info}"
        world.hunt.look_at("message", raw)
    world.sweep()
    leaks = world.leaks()
    assert not leaks, "\n".join(leaks)


@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE"])
def test_no_stored_result_of_a_task_holds_a_secret(
    world: World, celery: Celery, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    account = world.make_account(access_token_expires_at=timezone.now() - timedelta(seconds=1))
    if status == "FAILURE":
        url = world.settings.ILERT_OAUTH_API_URL
        monkeypatch.setitem(transport.adapters, url, interrupted("/token", MemoryError()))
    outcome = tasks.refresh_account.apply((account.pk,), ignore_result=False)
    kept = celery.backend.get_task_meta(outcome.id)
    assert kept["status"] == status
    world.hunt.look_at("result", kept)
    world.sweep()
    leaks = world.leaks()
    assert not leaks, "\n".join(leaks)


def every_character(url: str) -> str:
    return "".join(f"%{ord(character):02X}" for character in url)


def odd_names(url: str) -> str:
    return url.replace("code=", "%63ode=").replace("state=", "st%61te=")


def values_only(url: str) -> str:
    return " ".join(dict(parse_qsl(urlsplit(url).query)).values())


#: What servers and proxies in front of the site make of the address that holds the code.
COPIES = ["RAW_URI", "REQUEST_URI", "REDIRECT_QUERY_STRING", "HTTP_X_ORIGINAL_URI"]
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "encoded": lambda url: quote(url, safe=""),
    "encoded twice": lambda url: quote(quote(url, safe=""), safe=""),
    "every character encoded": every_character,
    "odd names": odd_names,
    "the values only": values_only,
    "the values encoded": lambda url: every_character(values_only(url)),
}


@pytest.mark.parametrize(
    ("copy", "spelling"),
    [*((copy, "encoded") for copy in COPIES), *((COPIES[0], name) for name in SPELLINGS)],
)
def test_no_copy_of_the_address_leaks_where_the_callback_breaks(
    world: World, copy: str, spelling: str
) -> None:
    url = world.begin()
    with refused_by_database("INSERT", ACCOUNT):
        extra: Any = {copy: SPELLINGS[spelling](url)}
        response: Any = world.browser.get(odd_names(url), **extra)
    assert response.status_code == 500
    world.visit(response)
    world.sweep()
    leaks = world.leaks()
    assert not leaks, "\n".join(leaks)


@pytest.mark.parametrize("place", ["log", "page", "encoded page", "error", "account"])
def test_the_hunt_finds_a_piece_of_a_secret_anywhere(world: World, place: str) -> None:
    account = world.make_account()
    world.learn()
    piece = account.refresh_token.reveal()[-20:-6]
    if place == "log":
        logging.getLogger("anything").debug("it is %s", piece)
    elif place == "page":
        world.hunt.look_at("page", f"<p>{piece}</p>")
    elif place == "encoded page":
        world.hunt.look_at("page", f"<p>{every_character(every_character(piece))}</p>")
    elif place == "error":
        world.attempt(lambda: int(piece + "x"))
    else:
        account.display_name = piece
        account.save()
    world.sweep()
    assert world.leaks() != []
