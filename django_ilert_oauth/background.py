"""Django's own tasks, on whatever backend a site has (before Django 6.0: extra ``[tasks]``).

Have ``refresh_expiring_tokens.enqueue()`` called every minute. One message is one run: a message
for each account would be hundreds of thousands of rows a day in a database that is the queue.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import django

from django_ilert_oauth import flows
from django_ilert_oauth.flows import _schedule

__all__ = ["refresh_expiring_tokens"]

if TYPE_CHECKING:
    from django.tasks import task
else:
    task = import_module("django.tasks" if django.VERSION >= (6, 0) else "django_tasks").task


@task
def refresh_expiring_tokens() -> dict[str, Any]:
    """Refreshes what is due, as much as one minute allows, and revokes what is pending.

    Returns the counts ``refreshed``, ``failed`` and ``revoked``, and ``stopped`` as of
    ``flows.refresh_many``.
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
