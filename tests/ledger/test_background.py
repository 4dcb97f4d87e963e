"""Django's own tasks, by a worker of django-tasks-db in a process of its own."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation
from ilert_standin import Fault, StandIn
from tests.support.other_callers import lapse_leases
from tests.support.site_processes import site_process, work_off_tasks

from .conftest import MakeDue, lost, refreshed

pytest.importorskip("django_tasks_db")
from django_tasks_db.models import DBTaskResult

from django_ilert_oauth.background import refresh_again, refresh_expiring_tokens

pytestmark = pytest.mark.django_db(transaction=True)

QUEUE = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
CONCURRENCY = 4


def test_one_task_is_one_run_over_what_is_due_and_what_is_to_be_revoked(
    account: ConnectedAccount, make_due: MakeDue, ilert: StandIn
) -> None:
    ilert.add_fault("revoke", Fault(status=500))
    flows.disconnect(account)
    PendingRevocation.objects.update(next_attempt_at=None)
    accounts = make_due(3)
    counts = {"refreshed": 3, "failed": 0, "revoked": 1, "stopped": ""}
    assert refresh_expiring_tokens.enqueue().return_value == counts
    assert (refreshed(accounts), PendingRevocation.objects.count()) == (3, 0)


def test_a_run_makes_no_more_requests_than_a_minute_allows(
    make_due: MakeDue, settings: Any
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 1
    accounts = make_due(2)
    refresh_expiring_tokens.enqueue()
    assert refreshed(accounts) == 1


def test_without_a_backend_that_defers_the_next_run_asks_for_what_has_failed(
    make_due: MakeDue, ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 1
    accounts = make_due(1)
    ilert.add_fault("token", Fault(503))
    counts = [refresh_expiring_tokens.enqueue().return_value["refreshed"] for _ in range(2)]
    assert (counts, refreshed(accounts)) == ([0, 1], 1)


def deferred() -> Any:
    """What waits for its time, and how long from now."""
    waiting = DBTaskResult.objects.filter(run_after__gt=timezone.now())
    return [
        (it.task_path, it.args_kwargs["args"], (it.run_after - timezone.now()).total_seconds())
        for it in waiting
    ]


def test_a_503_is_deferred_and_the_runs_until_then_go_on_with_the_others(
    make_due: MakeDue, ilert: StandIn, settings: Any
) -> None:
    settings.TASKS = QUEUE
    [failing] = make_due(1)
    ilert.add_fault("token", Fault(503))
    refresh_expiring_tokens.call()
    [(path, arguments, seconds)] = deferred()
    assert path == "django_ilert_oauth.background.refresh_again"
    assert (arguments, 50 < seconds <= 75) == ([[failing.pk], 1], True)
    others = make_due(2, first=1)
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 2  # one of which is that of the deferred task
    assert refresh_expiring_tokens.call()["refreshed"] == 1
    assert (refreshed([failing]), refreshed(others)) == (0, 1)
    refresh_again.call(*arguments)
    assert (refreshed([failing]), len(deferred())) == (1, 1)


def test_what_fails_again_is_deferred_for_longer_and_in_the_end_left_to_later_runs(
    make_due: MakeDue, ilert: StandIn, settings: Any
) -> None:
    settings.TASKS = QUEUE
    [failing] = make_due(1)
    ilert.add_fault("token", Fault(503), times=None)
    refresh_again.call([failing.pk], 2)
    [(_path, arguments, seconds)] = deferred()
    assert (arguments, 200 < seconds <= 300) == ([[failing.pk], 3], True)
    refresh_again.call(*arguments)
    assert len(deferred()) == 1


def test_what_time_does_not_fix_is_not_deferred(make_due: MakeDue, settings: Any) -> None:
    settings.TASKS = QUEUE
    _good, elsewhere, unreadable = make_due(3)
    ConnectedAccount.objects.filter(pk=elsewhere.pk).update(client_id="another")
    ConnectedAccount.objects.filter(pk=unreadable.pk).update(refresh_token_ciphertext="unreadable")
    assert refresh_expiring_tokens.call()["failed"] == 2
    settings.ILERT_OAUTH_CLIENT_SECRET = "wrong"
    make_due(1, first=3)
    assert refresh_expiring_tokens.call()["stopped"] == "credentials"
    assert deferred() == []


def test_a_worker_that_is_killed_midway_leaves_the_rest_to_the_next_run(
    make_due: MakeDue, ilert: StandIn, settings: Any
) -> None:
    settings.TASKS = QUEUE
    accounts = make_due(24)
    refresh_expiring_tokens.enqueue()
    with site_process(work_off_tasks, QUEUE) as worker:
        ilert.add_fault("token", Fault(delay=0.1), times=None)
        worker.go()
        wait_for(accounts, 4)
        worker.kill()
    assert refreshed(accounts) < 24
    lapse_leases()
    refresh_expiring_tokens.enqueue()
    with site_process(work_off_tasks, QUEUE) as worker:
        worker.go().result()
    assert refreshed(accounts) + len(lost(ilert)) == 24
    assert len(lost(ilert)) <= CONCURRENCY


def wait_for(accounts: list[ConnectedAccount], count: int) -> None:
    deadline = time.monotonic() + 30
    while refreshed(accounts) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
