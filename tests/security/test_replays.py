"""A callback that comes twice, one after the other or at the same moment, sends its code once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from django_ilert_oauth import state, transport
from django_ilert_oauth.models import ConnectedAccount
from ilert_standin import Fault, StandIn
from ilert_standin.browser import authorize
from tests.flows.beside import Acting, at_once

pytestmark = pytest.mark.django_db(transaction=True)

ACCOUNTS, CONNECT = "/ilert/", "/ilert/connect/"
ENDED = b"This attempt to connect has ended"
ENGINES = ["cache", "cached_db", "db", "file", "signed_cookies"]


@pytest.fixture(params=ENGINES)
def kept_in(request: pytest.FixtureRequest, settings: Any, tmp_path: Path) -> str:
    engine = str(request.param)
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    settings.SESSION_FILE_PATH = tmp_path
    return engine


@pytest.fixture
def visitor(kept_in: str, user: User) -> Client:
    browser = Client()
    browser.force_login(user)
    return browser


@pytest.fixture
def callback_url(visitor: Client, ilert: StandIn) -> str:
    leave: Any = visitor.post(CONNECT, {"next": "/after/"})
    return authorize(leave["Location"])


def twin(browser: Client) -> Client:
    """The same browser as it is now: what is done in the one, the other does not know."""
    other = Client()
    other.cookies.update(browser.cookies)
    return other


@pytest.fixture
def all_have_looked(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Holds so many callbacks until each has found the attempt in the session, unused."""

    def hold(count: int) -> None:
        barrier, find = Barrier(count, timeout=30), vars(state)["_find"]

        def find_and_wait(*args: Any) -> Any:
            found = find(*args)
            barrier.wait()
            return found

        monkeypatch.setattr(state, "_find", find_and_wait)

    return hold


def test_of_callbacks_at_the_same_moment_one_sends_the_code(
    visitor: Client,
    callback_url: str,
    ilert: StandIn,
    all_have_looked: Callable[[int], None],
) -> None:
    ilert.options.latency = 0.2
    browsers = [twin(visitor) for _ in range(4)]
    all_have_looked(4)
    answers: list[Any] = at_once(4, lambda number: browsers[number].get(callback_url))
    assert sorted(answer["Location"] for answer in answers) == ["/after/"] + [ACCOUNTS] * 3
    assert [request.status for request in ilert.token_requests] == [200]
    assert ilert.live_refresh_tokens("acme", "grace") == 1
    assert ConnectedAccount.objects.get().status == "connected"


def test_a_callback_while_another_has_the_attempt_sends_nothing_and_says_so(
    visitor: Client,
    callback_url: str,
    ilert: StandIn,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other, pages = twin(visitor), list[Any]()
    meanwhile = Acting(before=lambda: pages.append(other.get(callback_url, follow=True)))
    monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, meanwhile)
    assert visitor.get(callback_url)["Location"] == "/after/"
    [page] = pages
    assert page.redirect_chain == [(ACCOUNTS, 302)]
    assert ENDED in page.content
    assert len(ilert.token_requests) == 1
    assert b"grace @ acme" in other.get(callback_url, follow=True).content


def test_a_callback_with_the_session_of_before_lands_where_a_reload_does(
    visitor: Client, callback_url: str, ilert: StandIn
) -> None:
    before = visitor.session
    replayed = twin(visitor)
    visitor.get(callback_url)
    before.save()
    page = replayed.get(callback_url, follow=True)
    assert page.redirect_chain == [(ACCOUNTS, 302)]
    assert ENDED not in page.content
    assert b"grace @ acme" in page.content
    assert len(ilert.token_requests) == 1
    assert "code_verifier" not in str(replayed.session[state.SESSION_KEY])


@pytest.mark.parametrize("outcome", ["deleted", "failed"])
def test_a_callback_with_the_session_of_before_is_refused_where_nothing_is_connected(
    visitor: Client, callback_url: str, ilert: StandIn, outcome: str
) -> None:
    before = visitor.session
    replayed = twin(visitor)
    if outcome == "failed":
        ilert.add_fault("token", Fault(500))
    visitor.get(callback_url)
    ConnectedAccount.objects.all().delete()
    before.save()
    page = replayed.get(callback_url, follow=True)
    assert page.redirect_chain == [(ACCOUNTS, 302)]
    assert ENDED in page.content
    assert len(ilert.token_requests) == 1
