from __future__ import annotations

import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable

import pytest

from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.tasks import refresh_account, refresh_expiring_tokens
from ilert_standin import StandIn
from tests.celery.conftest import Workers, eventually
from tests.support.request_gate import RequestGate

MakeDue = Callable[[int], list[ConnectedAccount]]


def left() -> int:
    return ConnectedAccount.objects.filter(refreshed_at__isnull=True).count()


def requests_by_account(ilert: StandIn) -> Counter[int]:
    """Tokens are not rotated here, so each account has one refresh token for good."""
    pks = {account.refresh_token.reveal(): account.pk for account in ConnectedAccount.objects.all()}
    return Counter(pks[request.form["refresh_token"]] for request in ilert.token_requests)


def secrets_of(account: ConnectedAccount) -> list[str]:
    return [
        account.access_token.reveal(),
        account.refresh_token.reveal(),
        account.access_token_ciphertext,
        account.refresh_token_ciphertext,
    ]


class Beat:
    """A run every few seconds."""

    def __init__(self) -> None:
        self._next = 0.0

    def tick(self) -> bool:
        if time.monotonic() >= self._next:
            refresh_expiring_tokens.delay()
            self._next = time.monotonic() + 5
        return True


def test_a_worker_killed_midway_costs_no_account_and_no_second_request(
    make_due: MakeDue, gate: RequestGate, workers: Workers, ilert: StandIn
) -> None:
    accounts = make_due(500)
    secrets = [secret for account in accounts for secret in secrets_of(account)]
    gate.shut_at = 200
    for _ in range(2):
        workers.start()
    eventually(lambda: workers.log.count(" ready.") == 2, workers)
    beat = Beat()
    # Both processes of a worker have a request under way that ilert has not seen, and no
    # response to store. Those of the other may wait for the same accounts, whose messages have come
    # back.
    eventually(lambda: beat.tick() and 2 in gate.waiting.values(), workers)
    [(unlucky, _count)] = gate.waiting.most_common(1)
    workers.kill(workers.running[unlucky])
    eventually(lambda: gate.waiting[unlucky] == 0, workers)
    assert 0 < left() < 500
    gate.open.set()
    # Where they waited in vain, the task itself retries, after a minute.
    eventually(lambda: beat.tick() and left() == 0, workers, seconds=180)
    assert requests_by_account(ilert) == {account.pk: 1 for account in accounts}
    assert {made.status for made in ilert.token_requests} == {200}
    secrets += [secret for a in ConnectedAccount.objects.all() for secret in secrets_of(a)]
    said = workers.log
    assert said.count("succeeded") > 0
    assert [secret for secret in secrets if secret in said] == []


def test_two_workers_together_keep_the_rate_limit_of_the_token_endpoint(
    make_due: MakeDue, gate: RequestGate, workers: Workers
) -> None:
    """Ten a second. What piles up while the machine is busy comes at once, so twice as many may."""
    make_due(150)
    workers.environment["FLEET_RATE_LIMIT"] = "600"
    for _ in range(2):
        workers.start()
    eventually(lambda: workers.log.count(" ready.") == 2, workers)
    beat = Beat()
    eventually(lambda: beat.tick() and left() == 0, workers)
    assert gate.arrivals[-1] - gate.arrivals[0] > 10
    assert max(arrived_within(5, gate.arrivals)) <= 100


def arrived_within(seconds: float, arrivals: list[float]) -> list[int]:
    """How many in that time from each arrival on."""
    return [bisect(arrivals, start + seconds) - index for index, start in enumerate(arrivals)]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_outlives_the_process_that_ran_it(
    make_due: MakeDue, workers: Workers, ilert: StandIn, pool: str
) -> None:
    """A child of the pool dies; where it is of threads the worker does, and another takes over."""
    [account] = make_due(1)
    workers.order_to_die.touch()
    refresh_account.delay(account.pk)
    worker = workers.start(pool=pool, concurrency=1)
    eventually(lambda: not workers.order_to_die.exists(), workers)
    if pool == "threads":
        worker.wait()
        assert left() == 1
        workers.start(pool=pool, concurrency=1)
    eventually(lambda: left() == 0, workers)
    assert requests_by_account(ilert) == {account.pk: 1}
