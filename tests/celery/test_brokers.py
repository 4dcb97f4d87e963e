"""What brokers and clocks do to messages costs no account and no second request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import pytest
import redis
from celery import Celery

from django_ilert_oauth.tasks import refresh_account, refresh_expiring_tokens
from ilert_standin import StandIn
from tests.celery.conftest import BOTH, Workers, eventually
from tests.celery.test_fleet import Beat, MakeDue, left, requests_by_account
from tests.support.proxy import TcpProxy
from tests.support.request_gate import RequestGate
from tests.support.require_services import address_of

DAY = timedelta(days=1)


def start(workers: Workers, count: int = 1) -> None:
    for _ in range(count):
        workers.start()
    eventually(lambda: workers.log.count(" ready.") == count, workers)


def test_two_beats_at_once_make_one_request_for_each_account(
    make_due: MakeDue, workers: Workers, gate: RequestGate, ilert: StandIn
) -> None:
    accounts = make_due(50)
    gate.shut_at = 1
    start(workers, 2)
    # No account is refreshed in between, so the second hands out all but those under way.
    handed_out = refresh_expiring_tokens() + refresh_expiring_tokens()
    gate.open.set()
    beat = Beat()
    eventually(lambda: beat.tick() and left() == 0, workers)
    assert handed_out > 90
    assert requests_by_account(ilert) == {account.pk: 1 for account in accounts}


def test_a_message_that_is_delivered_twice_at_once_makes_one_request(
    make_due: MakeDue, workers: Workers, gate: RequestGate, ilert: StandIn
) -> None:
    [account] = make_due(1)
    gate.shut_at = 1
    start(workers)
    for _ in range(2):
        refresh_account.apply_async((account.pk,), task_id="delivered-twice")
    eventually(lambda: workers.log.count("received") >= 2 and len(gate.arrivals) == 1, workers)
    gate.open.set()
    eventually(lambda: workers.log.count("succeeded in") == 2, workers)
    assert requests_by_account(ilert) == {account.pk: 1}


@pytest.fixture
def proxy(broker_url: str, workers: Workers) -> Iterator[TcpProxy]:
    """Through which the workers reach the broker."""
    proxy = TcpProxy(address_of(broker_url))
    parts = urlsplit(broker_url)
    place = parts.netloc.rpartition("@")[0]
    netloc = f"{place}@127.0.0.1:{proxy.port}" if place else f"127.0.0.1:{proxy.port}"
    workers.environment["CELERY_BROKER_URL"] = parts._replace(netloc=netloc).geturl()
    yield proxy
    proxy.close()


def test_a_broker_that_restarts_costs_no_account_and_no_second_request(
    make_due: MakeDue, workers: Workers, ilert: StandIn, proxy: TcpProxy, broker_url: str
) -> None:
    """In the middle of a minute, while messages wait for their slots in the workers."""
    accounts = make_due(60)
    workers.environment["FLEET_RATE_LIMIT"] = "600"
    start(workers, 2)
    refresh_expiring_tokens.delay()
    eventually(lambda: left() < 50, workers)
    proxy.close()
    assert left() > 0
    time.sleep(2)
    again = TcpProxy(address_of(broker_url), proxy.port)
    beat = Beat()
    eventually(lambda: beat.tick() and left() == 0, workers)
    again.close()
    assert requests_by_account(ilert) == {account.pk: 1 for account in accounts}


@pytest.fixture
def shift_clock(app: Celery, monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Of the host that hands out: Celery makes the times of messages of its clock."""
    right: Callable[[], datetime] = app.now
    return lambda shift: monkeypatch.setattr(app, "now", lambda: right() + shift)


@pytest.mark.parametrize("shift", [DAY, -DAY], ids=["ahead", "behind"])
def test_what_a_host_hands_out_whose_clock_is_a_day_off_the_next_minute_makes_good(
    make_due: MakeDue,
    workers: Workers,
    ilert: StandIn,
    shift_clock: Callable[[timedelta], None],
    shift: timedelta,
) -> None:
    """Ahead, its messages wait in vain; behind, they have expired: all but the first of a minute,
    which waits for nothing and expires a day too late.
    """
    accounts = make_due(5)
    start(workers)
    shift_clock(shift)
    refresh_expiring_tokens()
    eventually(lambda: workers.log.count("received") >= 5, workers)
    time.sleep(2)
    assert left() == (4 if shift > timedelta(0) else 5)
    shift_clock(timedelta(0))
    refresh_expiring_tokens()
    eventually(lambda: left() == 0, workers)
    assert requests_by_account(ilert) == {account.pk: 1 for account in accounts}


def test_a_result_backend_is_left_empty(
    make_due: MakeDue, workers: Workers, ilert: StandIn
) -> None:
    make_due(3)
    workers.environment["CELERY_RESULT_BACKEND"] = BOTH[0]
    start(workers)
    refresh_expiring_tokens.delay()
    eventually(lambda: left() == 0, workers)
    eventually(lambda: workers.log.count("succeeded in") >= 4, workers)
    ids = [line.partition("[")[2].partition("]")[0] for line in received(workers)]
    kept = redis.Redis.from_url(BOTH[0]).exists(*(f"celery-task-meta-{id}" for id in ids))
    assert (len(ids) >= 4, kept) == (True, 0)


def received(workers: Workers) -> list[str]:
    lines = [line.partition("Task ")[2] for line in workers.log.splitlines()]
    return [line for line in lines if line.endswith("received")]
