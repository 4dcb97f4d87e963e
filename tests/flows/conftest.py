from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.http import HttpRequest
from django.test import RequestFactory

from django_ilert_oauth import flows
from django_ilert_oauth.flows._bulk.rate_limiter import RateLimiter
from ilert_standin import StandIn
from ilert_standin.browser import authorize
from tests.support.other_callers import receiving

RequestMaker = Callable[..., HttpRequest]


@pytest.fixture
def make_request(ilert: StandIn, user: User) -> RequestMaker:
    """Requests of one browser in which the user is logged in."""
    session = SessionStore()

    def make(url: str = "/", user: Any = user) -> HttpRequest:
        request = RequestFactory().get(url)
        request.user, request.session = user, session
        return request

    return make


@pytest.fixture
def callback(make_request: RequestMaker) -> HttpRequest:
    """With which the user comes back from ilert."""
    return make_request(authorize(flows.start_connect(make_request())))


@pytest.fixture
def opened() -> Iterator[list[BaseDatabaseWrapper]]:
    """Each connection that is opened from now on."""
    seen: list[BaseDatabaseWrapper] = []

    def note(connection: BaseDatabaseWrapper, **_kwargs: Any) -> None:
        seen.append(connection)

    with receiving(connection_created, note):
        yield seen


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Those that a run asks for; none is made."""
    asked_for: list[float] = []
    monkeypatch.setattr(RateLimiter, "pause", lambda self, seconds: asked_for.append(seconds))
    return asked_for
