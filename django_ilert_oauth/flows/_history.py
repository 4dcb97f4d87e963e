"""The history of accounts: one event per change, none for a refresh that just worked.

An event is written where the change is, in its transaction if there is one.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.db import transaction
from django.utils import timezone

from django_ilert_oauth.conf import conf
from django_ilert_oauth.internal.rows import database
from django_ilert_oauth.models import AccountEvent, ConnectedAccount, Reason

from ._steps import is_interrupt
from ._storing import DATABASE_ERRORS

logger = logging.getLogger(__name__)

By, Kind = AccountEvent.By, AccountEvent.Kind

_actor: ContextVar[str] = ContextVar("actor", default="")

_BY_REASON = {Reason.USER: By.USER, Reason.ADMIN: By.ADMIN, Reason.INCIDENT: By.COMMAND}


@contextmanager
def acting(by: AccountEvent.By) -> Iterator[None]:
    """Who changes accounts meanwhile: neither models' own signals nor reasons tell."""
    token = _actor.set(by)
    try:
        yield
    finally:
        _actor.reset(token)


def record(account: ConnectedAccount, kind: str, by: str = "", code: str = "") -> None:
    """Fails only with the caller's transaction, whatever receivers of the site do.

    A grant matters more than its history.
    """
    reference = secrets.token_hex(4)
    logger.info("Account %s: %s %s (reference %s)", account.pk, kind, code, reference)
    facts = {"kind": kind, "by": _actor.get() or by, "code": code, "reference": reference}
    try:
        # A savepoint, in a transaction: what fails takes nothing along.
        with transaction.atomic(using=database()):
            AccountEvent.objects.using(database()).create(
                account_uuid=account.uuid, client_id=account.client_id, **facts
            )
    except Exception as error:
        in_transaction = transaction.get_connection(database()).in_atomic_block
        # If even the savepoint is lost, Django would roll back the rest without a word.
        is_lost = in_transaction and transaction.get_rollback(database())
        if is_lost or is_interrupt(error):
            raise
        logger.warning(
            "An event was not written: %s (reference %s)", type(error).__name__, reference
        )


def record_disconnect(account: ConnectedAccount, reason: Reason) -> None:
    record(account, Kind.DISCONNECTED, _BY_REASON.get(reason, ""), reason)


def record_handover(
    instance: ConnectedAccount, update_fields: Collection[str] | None, **kwargs: Any
) -> None:
    """Receives ``post_save``."""
    is_saved = update_fields is None or not {"user", "user_id"}.isdisjoint(update_fields)
    if is_saved and instance.has_new_user:
        record(instance, Kind.HANDED_OVER)


def prune_events() -> None:
    """Deletes what is older than ``ILERT_OAUTH_KEEP_EVENTS``; never fails a run."""
    oldest = timezone.now() - conf.keep_events
    try:
        AccountEvent.objects.using(database()).filter(at__lt=oldest).delete()
    except DATABASE_ERRORS as error:
        logger.warning("The history was not pruned: %s", type(error).__name__)
