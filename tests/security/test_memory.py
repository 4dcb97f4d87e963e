"""Once a flow has returned, nothing in memory holds a plain secret.

Exempt are what ``get_access_token`` and ``start_connect`` have returned, which is the caller's, and
what ``memory`` names.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory
from tests.support.programs import memory
from tests.support.watched_site import World

pytestmark = pytest.mark.django_db(transaction=True)

FAULTS = {
    "success": None,
    "no response": Fault(drop=True),
    "invalid_grant": Fault(401, '{"code": "invalid_grant"}'),
}
ENDPOINTS = {"use": "users/current", "check": "token_info", "disconnect": "revoke"}
FLOWS = ["get_access_token", "refresh", "refresh_many", "check", "disconnect", "use", "callback"]


@pytest.fixture
def world(ilert: StandIn, user: User, make_account: AccountFactory, settings: Any) -> World:
    return World(ilert, user, make_account, settings)


def left_after(world: World, verb: str) -> list[str]:
    expires_at = timezone.now() + timedelta(minutes=0 if verb == "get_access_token" else 10)
    account = world.make_account(access_token_expires_at=expires_at)
    url = world.begin() if verb == "callback" else ""

    def secrets() -> dict[str, str]:
        world.learn()
        return world.hunt.secrets

    cookies = world.browser.cookies.output(header="", sep=";")
    return memory.left_after(memory.Order(verb, account.pk, cookies, url), secrets)


@pytest.mark.parametrize("outcome", FAULTS)
@pytest.mark.parametrize("verb", FLOWS)
def test_nothing_holds_a_secret_after(world: World, verb: str, outcome: str) -> None:
    if response := FAULTS[outcome]:
        world.ilert.add_fault(ENDPOINTS.get(verb, "token"), response, times=None)
    assert left_after(world, verb) == []


@pytest.mark.parametrize("holder", ["a closure", "a generator", "headers"])
def test_the_search_finds_a_token_in(world: World, holder: str) -> None:
    assert left_after(world, holder) != []
