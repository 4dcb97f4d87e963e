"""How flows send signals. To count refreshes, receive ``account_refreshed``."""

from __future__ import annotations

from typing import Any

from django.db import connections, transaction
from django.dispatch import Signal

from django_ilert_oauth.internal.rows import database
from django_ilert_oauth.models import ConnectedAccount


def send_signal(
    signal: Signal, account: ConnectedAccount, *, is_committed: bool = False, **facts: Any
) -> None:
    """Sends it after the commit; at once for what another connection has committed.

    At once, too, where the caller commits by hand: Django has no hook for that.
    """

    def send() -> None:
        signal.send_robust(sender=ConnectedAccount, account=account, **facts)

    connection = connections[database()]
    if is_committed or not (connection.in_atomic_block or connection.get_autocommit()):
        send()
    else:
        transaction.on_commit(send, using=connection.alias, robust=True)
