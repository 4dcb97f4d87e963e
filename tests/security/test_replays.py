"""A callback that comes twice, one after the other or at the same moment, sends its code once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from django_ilert_oauth.internal import authorization_request
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth import transport
from ilert_standin import Fault, StandIn
from ilert_standin.browser import authorize
from tests.support.other_callers import Acting, at_once, beside

pytestmark = pytest.mark.django_db(transaction=True)

CONNECT = "/ilert/connect/"
BACK_BY_ACCOUNTS = "/ilert/?next=%2Fafter%2F"
ENDED = b"This request to connect has ended"
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
    """Holds so many callbacks until each has found the authorization request, unused."""

    def hold(count: int) -> None:
        barrier, consume = Barrier(count, timeout=30), authorization_request.consume

        def wait_and_consume(found: Any) -> Any:
            barrier.wait()
            return consume(found)

        monkeypatch.setattr(authorization_request, "consume", wait_and_consume)

    return hold


def test_of_callbacks_at_the_same_moment_one_sends_the_code(
    visitor: Client, callback_url: str, ilert: StandIn, all_have_looked: Callable[[int], None]
) -> None:
    ilert.options.latency = 0.2
    browsers = [twin(visitor) for _ in range(4)]
    all_have_looked(4)
    responses: list[Any] = at_once(4, lambda number: browsers[number].get(callback_url))
    assert sorted(each["Location"] for each in responses) == ["/after/"] + [BACK_BY_ACCOUNTS] * 3
    assert [request.status for request in ilert.token_requests] == [200]
    assert ilert.live_refresh_tokens("acme", "grace") == 1
    assert ConnectedAccount.objects.get().status == "connected"


def test_a_callback_while_another_has_the_request_sends_nothing_and_says_so(
    visitor: Client,
    callback_url: str,
    ilert: StandIn,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other, pages = twin(visitor), list[Any]()
    look = partial(beside, lambda: pages.append(other.get(callback_url, follow=True)))
    meanwhile = Acting(before=look)
    monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, meanwhile)
    assert visitor.get(callback_url)["Location"] == "/after/"
    [page] = pages
    assert page.redirect_chain == [(BACK_BY_ACCOUNTS, 302)]
    assert ENDED in page.content
    assert len(ilert.token_requests) == 1
    assert other.get(callback_url)["Location"] == "/after/"


def test_a_session_that_another_tab_has_put_back_changes_nothing(
    visitor: Client, ilert: StandIn
) -> None:
    """As a response does that has read the session before and writes it after."""
    before, older = visitor.session, twin(visitor)
    leave: Any = visitor.post(CONNECT, {"next": "/after/"})
    before.save()
    callback_url = authorize(leave["Location"])
    assert older.get(callback_url)["Location"] == "/after/"
    before.save()
    page = twin(older).get(callback_url)
    assert page["Location"] == "/after/"
    assert len(ilert.token_requests) == 1


@pytest.mark.parametrize("outcome", ["deleted", "failed"])
def test_a_callback_again_is_refused_where_nothing_is_connected(
    visitor: Client, callback_url: str, ilert: StandIn, outcome: str
) -> None:
    if outcome == "failed":
        ilert.add_fault("token", Fault(500))
    visitor.get(callback_url)
    ConnectedAccount.objects.all().delete()
    page = twin(visitor).get(callback_url, follow=True)
    assert page.redirect_chain == [(BACK_BY_ACCOUNTS, 302)]
    assert ENDED in page.content
    assert len(ilert.token_requests) == 1


@pytest.mark.parametrize("kept_in", ["db", "signed_cookies"], indirect=True)
@pytest.mark.parametrize("in_session", [True, False])
def test_wherever_the_csrf_token_is_kept_and_whoever_lacks_its_cookie_a_user_can_connect(
    visitor: Client, ilert: StandIn, settings: Any, in_session: bool
) -> None:
    settings.CSRF_USE_SESSIONS = in_session
    visitor.get(CONNECT)
    leave: Any = visitor.post(CONNECT, {"next": "/after/"})
    visitor.cookies.pop(settings.CSRF_COOKIE_NAME, None)
    assert visitor.get(authorize(leave["Location"]))["Location"] == "/after/"
