"""Celery tasks (extra ``[celery]``) with which any number of workers share one rate limit.

Let beat run ``refresh_expiring_tokens`` every minute.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from celery import Task, current_app, shared_task
from celery.exceptions import Retry

from django_ilert_oauth.flows import _schedule


@shared_task(ignore_result=True, expires=_schedule.MINUTE)
def refresh_expiring_tokens() -> int:
    """Queues one minute's refreshes, evenly spread, and sends pending revocations.

    Let beat run it every minute. It queues nothing for a client whose credentials seem to be wrong.
    Returns how many refreshes it has queued.
    """
    count = 0
    for pk, delay, patience in _schedule.slots():
        with suppress(Retry):  # of an eager task, which nobody would send again
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
    """Refreshes the account with this primary key if it is still due.

    Returns ``refreshed``, or the code of what happened instead. Retries by itself after an error
    that may pass.
    """
    code, again_in = _schedule.refresh(pk, self.request.retries)
    if again_in is None:
        return code
    raise self.retry(countdown=again_in, expires=again_in + _schedule.MAX_LATENESS)


@shared_task(ignore_result=True, acks_late=True, reject_on_worker_lost=True)
def run_action(action: str, pks: list[Any], chosen_at: str = "") -> None:
    """Does what an administrator has chosen for more accounts than one request can handle."""
    _schedule.run_and_enqueue_rest(action, pks, chosen_at, enqueue)


def enqueue(action: str, pks: list[Any], chosen_at: str = "") -> None:
    run_action.delay(action, pks, chosen_at or _schedule.chosen_now())


def has_workers() -> bool:
    """Whether this process knows a broker, and does not run the tasks itself."""
    return bool(current_app.conf.broker_url) and not current_app.conf.task_always_eager
