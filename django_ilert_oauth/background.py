"""Tasks for Django's own tasks framework (before Django 6.0: extra ``[tasks]``).

Call ``refresh_expiring_tokens.enqueue()`` every minute. One message is one run: if the queue is a
database, a message for each account would be hundreds of thousands of rows a day.
"""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

import django
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.flows import _schedule

__all__ = ["refresh_expiring_tokens"]

if TYPE_CHECKING:
    from django.tasks import task, task_backends
else:
    _tasks = import_module("django.tasks" if django.VERSION >= (6, 0) else "django_tasks")
    task, task_backends = _tasks.task, _tasks.task_backends


@task
def refresh_expiring_tokens() -> dict[str, Any]:
    """Refreshes accounts that are due, up to one minute's rate limit; sends pending revocations.

    Returns a dict with the counts ``refreshed``, ``failed`` and ``revoked``, and with ``stopped``
    as in ``BulkResult``.
    """
    due, defers = _schedule.due(), _defers()
    limit = _schedule.requests_left(due, has_retries=defers)
    result = flows.refresh_many(_schedule.without_retries(due) if defers else due, limit=limit)
    revocations = _schedule.clean_up()
    _defer(result, 0)
    return {
        "refreshed": result.refreshed,
        "failed": result.failed,
        "revoked": revocations.revoked,
        "stopped": result.stopped,
    }


@task
def refresh_again(pks: list[Any], retries: int) -> None:
    """Refreshes those of the accounts that are still due."""
    _defer(flows.refresh_many(_schedule.due().filter(pk__in=pks)), retries)


def _defers() -> bool:
    return refresh_again.get_backend().supports_defer


def _defer(result: flows.BulkResult, retries: int) -> None:
    """One message for all that have failed; without it, later runs ask for them."""
    if result.stopped in ("", "outage") and retries < _schedule.MAX_RETRIES and _defers():
        failed = _schedule.due().filter(pk__in=list(result.failures))
        if pks := list(_schedule.to_be_retried(failed).values_list("pk", flat=True)):
            later = timezone.now() + timedelta(seconds=_schedule.retry_delay(retries, None))
            refresh_again.using(run_after=later).enqueue(pks, retries + 1)


@task
def run_action(action: str, pks: list[Any], chosen_at: str = "") -> None:
    """Does what an administrator has chosen for more accounts than one request can handle."""
    _schedule.run_and_enqueue_rest(action, pks, chosen_at, enqueue)


def enqueue(action: str, pks: list[Any], chosen_at: str = "") -> None:
    run_action.enqueue(action, pks, chosen_at or _schedule.chosen_now())


def has_workers() -> bool:
    """Whether tasks run in workers: Django's two own backends are for development and tests."""
    return type(task_backends["default"]).__name__ not in ("ImmediateBackend", "DummyBackend")
