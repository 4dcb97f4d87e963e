"""What runs over many accounts leave behind at their end: none of it fails a run."""

from __future__ import annotations

import logging

from django.db import transaction
from django.utils import timezone

from django_ilert_oauth.internal.rows import database
from django_ilert_oauth.models import LastRun

from ._history import prune_events
from ._notices import notify_users
from ._storing import DATABASE_ERRORS

logger = logging.getLogger(__name__)


def finish_refreshing(kind: LastRun.Kind) -> None:
    """Notes the run, notifies users and prunes the history."""
    note_run(kind)
    notify_users()
    prune_events()


def note_run(kind: LastRun.Kind) -> None:
    try:
        with transaction.atomic(using=database()):
            LastRun.objects.using(database()).update_or_create(
                kind=kind, defaults={"at": timezone.now()}
            )
    except DATABASE_ERRORS as error:
        logger.warning("A run was not recorded: %s", type(error).__name__)
