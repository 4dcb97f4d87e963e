"""Async views behind a real ASGI server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import httpx
import pytest
import uvicorn
from django.core.handlers.asgi import ASGIHandler

from django_ilert_oauth.models import ConnectedAccount
from ilert_standin import StandIn
from tests.conftest import AccountFactory
from tests.support.other_callers import stored_tokens

pytestmark = pytest.mark.django_db(transaction=True)

PATIENCE = 20


@contextmanager
def serve() -> Iterator[str]:
    options: dict[str, Any] = {"lifespan": "off", "ws": "none", "log_config": None}
    server = uvicorn.Server(uvicorn.Config(ASGIHandler(), "127.0.0.1", 0, **options))
    thread = Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


@pytest.fixture
def site(settings: Any) -> Iterator[str]:
    settings.ROOT_URLCONF = "tests.support.async_site"
    settings.ALLOWED_HOSTS = ["127.0.0.1"]
    with serve() as url:
        yield url


@pytest.fixture(autouse=True)
def slow_and_rotating(ilert: StandIn) -> None:
    """The old refresh token is dead at once, and all ask while the request is under way."""
    ilert.options.rotate = True
    ilert.options.latency = 0.5


async def get_all(urls: list[str]) -> list[Any]:
    async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
        responses = await asyncio.gather(*(client.get(url) for url in urls))
    return [response.raise_for_status().json() for response in responses]


@pytest.mark.parametrize("view", ["one", "many", "refreshed"])
def test_many_requests_at_once_refresh_once_and_all_get_the_new_token(
    expired_account: ConnectedAccount, ilert: StandIn, site: str, view: str
) -> None:
    responses = asyncio.run(get_all([f"{site}/{expired_account.pk}/{view}/"] * 20))
    assert len(responses) == 20
    assert {token for tokens in responses for token in tokens} == {
        stored_tokens(expired_account)[0]
    }
    assert len(ilert.token_requests) == 1


def test_a_slow_refresh_holds_up_no_other_request(
    make_account: AccountFactory, expired_account: ConnectedAccount, site: str
) -> None:
    fresh_account = make_account(username="ada")
    order: list[int] = []

    async def get(client: httpx.AsyncClient, pk: int, after: float = 0) -> None:
        await asyncio.sleep(after)
        (await client.get(f"{site}/{pk}/one/")).raise_for_status()
        order.append(pk)

    async def both() -> None:
        async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
            await asyncio.gather(
                get(client, expired_account.pk), get(client, fresh_account.pk, after=0.1)
            )

    asyncio.run(both())
    assert order == [fresh_account.pk, expired_account.pk]


@pytest.mark.parametrize("view", ["one", "refreshed"])
def test_a_client_that_goes_away_loses_no_token(
    expired_account: ConnectedAccount, ilert: StandIn, site: str, view: str
) -> None:
    before = stored_tokens(expired_account)
    url = f"{site}/{expired_account.pk}/{view}/"
    with pytest.raises(httpx.ReadTimeout), httpx.Client(timeout=0.2, trust_env=False) as client:
        client.get(url)
    until(lambda: stored_tokens(expired_account) != before)
    assert asyncio.run(get_all([url])) == [[stored_tokens(expired_account)[0]]]
    assert len(ilert.token_requests) == 1
