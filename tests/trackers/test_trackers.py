"""What the error trackers that sites install send to their makers, and write to logs.

They are the real ones, around the site's real WSGI handler: they see the failure, and no secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from django_ilert_oauth.models import ConnectedAccount
from ilert_standin import StandIn
from ilert_standin.browser import authorize
from tests.conftest import AccountFactory
from tests.support.watched_site import CONNECT, World
from tests.trackers.sink import Sink, open_sink
from tests.trackers.visit import Visit, make

pytestmark = pytest.mark.django_db(transaction=True)

TRACKERS = ["elastic-apm", "raygun4py", "rich", "rollbar", "sentry-sdk", "structlog"]
#: Nobody listens there.
DOWN = "http://127.0.0.1:9"


@pytest.fixture
def world(ilert: StandIn, user: User, make_account: AccountFactory, settings: Any) -> World:
    world = World(ilert, user, make_account, settings)
    settings.ROOT_URLCONF = "tests.trackers.site"
    return world


@pytest.fixture
def sink() -> Iterator[Sink]:
    with open_sink() as sink:
        yield sink


def visit(world: World, path: str, **options: Any) -> Visit:
    return Visit(path, world.browser.cookies["sessionid"].value, **options)


def with_ilert_down(world: World, path: str, **columns: Any) -> Visit:
    """With a token that is still good: it is on its way when the connection fails."""
    world.settings.ILERT_OAUTH_API_URL = DOWN
    world.make_account(api_url=DOWN, **columns)
    return visit(world, path)


def callback(world: World) -> Visit:
    return visit(world, world.begin(), refused="connectedaccount")


def connect(world: World) -> Visit:
    return visit(world, CONNECT, post=True, refused="authorizationrequest")


FAILURES: dict[str, Callable[[World], Visit]] = {
    "a view whose token is on its way": lambda world: with_ilert_down(world, "/sources/"),
    "a view whose token has expired": lambda world: with_ilert_down(
        world, "/sources/", access_token_expires_at=timezone.now() - timedelta(hours=1)
    ),
    "a view that uses httpx": lambda world: with_ilert_down(world, "/sources-by-httpx/"),
    "the callback": callback,
    "the connect page": connect,
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_failure_is_reported_without_a_secret(
    world: World, sink: Sink, tracker: str, failure: str
) -> None:
    assert make(FAILURES[failure](world), tracker, sink.url) == (500, "")
    assert "Error" in "".join(sink.received)
    assert leaks(world, sink) == []


@pytest.mark.parametrize("tracker", TRACKERS)
def test_users_connect_without_a_trace_of_a_secret(world: World, sink: Sink, tracker: str) -> None:
    _status, url = make(visit(world, CONNECT, post=True), tracker, sink.url)
    world.learn_parameters(url)
    make(visit(world, authorize(url)), tracker, sink.url)
    assert ConnectedAccount.objects.count() == 1
    assert leaks(world, sink) == []


def test_without_the_advice_of_readme_sentry_sends_the_code(world: World, sink: Sink) -> None:
    assert make(callback(world), "sentry-sdk without advice", sink.url) == (500, "")
    assert leaks(world, sink) == ["sink: code", "sink: state"]


def leaks(world: World, sink: Sink) -> list[str]:
    world.learn()
    world.hunt.look_at("sink", "\n".join(sink.received))
    return world.hunt.leaks()
