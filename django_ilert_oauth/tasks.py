"""Celery tasks (extra ``[celery]``): a fleet of workers keeps tokens fresh, and the rate limit.

Let beat run ``refresh_expiring_tokens`` every minute.
"""

from __future__ import annotations

from typing import Any

from celery import Task, shared_task

from django_ilert_oauth.flows import _schedule


@shared_task(ignore_result=True, expires=_schedule.MINUTE)
def refresh_expiring_tokens() -> int:
    """Hands out the requests of one minute, evenly spread, and sends pending revocations.

    Nothing is handed out while the client credentials seem to be wrong. Returns how many were.
    """
    count = 0
    for pk, delay, patience in _schedule.slots():
        refresh_account.apply_async((pk,), countdown=delay, expires=delay + patience)
        count += 1
    _schedule.clean_up()
    return count


@shared_task(
    bind=True,
    ignore_result=True,
    acks_late=True,
    reject_on_worker_lost=True,
    max_retries=_schedule.MAX_RETRIES,
)
def refresh_account(self: Task[Any, Any], pk: Any) -> str:
    """Refreshes the account if it is still due; returns a code."""
    code, again_in = _schedule.refresh(pk, self.request.retries)
    if again_in is None:
        return code
    raise self.retry(countdown=again_in, expires=again_in + _schedule.MAX_LATENESS)
