"""Processes that are killed, stopped or forked in the middle of a refresh."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from signal import SIGCONT, SIGHUP, SIGSTOP, SIGTERM, Signals
from typing import Any

import pytest
from django.db import connection

from django_ilert_oauth.models import ConnectedAccount, Status
from ilert_standin import StandIn
from tests.support.site_processes import (
    fork_after_a_refresh_in_a_transaction,
    refresh_for_ever,
    refresh_with_short_leases,
    run_command,
    site_process,
)

from .conftest import MakeDue, lost, refreshed

pytestmark = pytest.mark.django_db(transaction=True)

IS_SQLITE = connection.vendor == "sqlite"


@pytest.fixture(autouse=True)
def _latency(ilert: StandIn) -> None:
    ilert.options.latency = 0.02


@pytest.fixture
def accounts(make_due: MakeDue) -> list[ConnectedAccount]:
    return make_due(24)


def sleep(longest: float) -> None:
    time.sleep(random.uniform(0, longest))  # noqa: S311


def wait_for_a_request(ilert: StandIn, seen: int) -> None:
    deadline = time.monotonic() + 30
    while len(ilert.token_requests) <= seen and time.monotonic() < deadline:
        time.sleep(0.002)


def replace_grant(account: ConnectedAccount, ilert: StandIn) -> None:
    tokens = ilert.issue_tokens("acme", account.username, "profile")
    account.refresh_token = str(tokens["refresh_token"])
    account.status = Status.CONNECTED
    account.save()


def held_leases() -> dict[int, str]:
    """The refresh tokens of the accounts that somebody holds, or held when he died."""
    rows = ConnectedAccount.objects.exclude(lease_id="")
    return dict(rows.values_list("pk", "refresh_token_ciphertext"))


@pytest.mark.usefixtures("accounts")
def test_a_killed_run_loses_nothing_but_accounts_whose_leases_it_held(ilert: StandIn) -> None:
    held: dict[int, str] = {}
    for _ in range(5 if IS_SQLITE else 25):
        seen = len(ilert.token_requests)
        with ExitStack() as stack:
            started = [stack.enter_context(site_process(refresh_for_ever, 8)) for _ in range(4)]
            for process in started:
                process.go()
            wait_for_a_request(ilert, seen)
            for process in started:
                sleep(0.1)
                process.kill()
        held |= held_leases()
        for account in lost(ilert):
            assert held.get(account.pk) == account.refresh_token_ciphertext
            replace_grant(account, ilert)
        ConnectedAccount.objects.update(lease_id="", lease_ends_ms=0)
    assert held


@pytest.mark.usefixtures("accounts")
@pytest.mark.parametrize("number", [SIGTERM, SIGHUP])
def test_a_command_that_a_signal_ends_loses_nothing(ilert: StandIn, number: Signals) -> None:
    for _ in range(4 if IS_SQLITE else 10):
        seen = len(ilert.token_requests)
        with site_process(run_command, 8) as process:
            process.go()
            wait_for_a_request(ilert, seen)
            sleep(0.1)
            process.signal(number)
            assert process.result() in (0, 128 + number)
        assert lost(ilert) == []
        assert held_leases() == {}


def test_runs_that_are_stopped_for_longer_than_their_leases_lose_nothing(
    accounts: list[ConnectedAccount], ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_TIMEOUT = (1, 1)
    pks = [account.pk for account in accounts]
    shares = [pks[first::4] for first in range(4)]
    with ExitStack() as stack:
        started = [
            stack.enter_context(site_process(refresh_with_short_leases, share, 1.0))
            for share in shares
        ]
        for process in started:
            process.go()
        wait_for_a_request(ilert, 0)
        for process in started:
            sleep(0.03)
            process.signal(SIGSTOP)
        time.sleep(3.5)
        for process in started:
            process.signal(SIGCONT)
        results = [process.result() for process in started]
    assert sum(result.refreshed for result in results) == refreshed(accounts) > 0
    assert lost(ilert) == []


def test_a_forked_child_refreshes_the_account_that_its_parent_has_refreshed(
    accounts: list[ConnectedAccount], ilert: StandIn
) -> None:
    with site_process(fork_after_a_refresh_in_a_transaction, accounts[0].pk) as process:
        assert process.go().result() == "refreshed"
    assert len(ilert.token_requests) == 2
    assert lost(ilert) == []
