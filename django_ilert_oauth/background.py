"""Tasks for Django's own tasks framework (before Django 6.0: extra ``[tasks]``).

Call ``refresh_expiring_tokens.enqueue()`` every minute. One message is one run: if the queue is a
database, a message for each account would be hundreds of thousands of rows a day.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import django

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
    due = _schedule.due()
    result = flows.refresh_many(due, limit=_schedule.requests_left(due))
    revocations = _schedule.clean_up()
    return {
        "refreshed": result.refreshed,
        "failed": result.failed,
        "revoked": revocations.revoked,
        "stopped": result.stopped,
    }


@task
def run_action(action: str, pks: list[Any], chosen_at: str = "") -> None:
    """Does what an administrator has chosen for more accounts than one request can handle."""
    _schedule.run_and_enqueue_rest(action, pks, chosen_at, enqueue)


def enqueue(action: str, pks: list[Any], chosen_at: str = "") -> None:
    run_action.enqueue(action, pks, chosen_at or _schedule.chosen_now())


def has_workers() -> bool:
    """Whether tasks run in workers: Django's two own backends are for development and tests."""
    return type(task_backends["default"]).__name__ not in ("ImmediateBackend", "DummyBackend")
