"""Who may refresh an account, and on which connection.

A lease is won by one conditional ``UPDATE``, on any database, by one caller. It outlasts a request;
where its holder dies it lapses and another caller carries on. Its times are the database's own, so
hosts may disagree about theirs.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from django.db import DatabaseError, InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_ilert_oauth.conf import conf
from django_ilert_oauth.models import ConnectedAccount, DatabaseTime

from .base import TOKEN_COLUMNS, account_rows, columns, database

logger = logging.getLogger(__name__)

#: Seconds between one try to store an answer and the next.
STORE_PAUSES = (0.1, 0.5, 2)

NO_LEASE: dict[str, Any] = {"lease_id": "", "lease_ends_ms": 0}


def lease_seconds() -> float:
    """Longer than the slowest request: connecting (tried twice), waiting, reading to the end."""
    return 2 * sum(conf.timeout) + 5


def new_lease(seconds: float = 0) -> dict[str, Any]:
    """Columns of a lease for one request, and for so many seconds more."""
    milliseconds = int((lease_seconds() + seconds) * 1000)
    return {"lease_id": secrets.token_hex(16), "lease_ends_ms": DatabaseTime() + milliseconds}


def take_lease(account: ConnectedAccount) -> str:
    """The lease's id; empty where another caller holds one or the account has changed."""
    lease = new_lease()
    rows = account_rows().filter(pk=account.pk, **columns(account, ["status", *TOKEN_COLUMNS]))
    return str(lease["lease_id"]) if rows.unleased().update(**lease) else ""


def store_under(lease_id: str, account: ConnectedAccount, sent: str, names: list[str]) -> bool:
    """Writes the columns and gives the lease back.

    Writes nothing where another caller has taken the lease, or the refresh token is not the one
    that was sent. A database that fails is asked again: an answer of ilert is not to be lost.
    """
    values = {**columns(account, names), **NO_LEASE}
    condition = {"id": account.pk, "lease_id": lease_id, "refresh_token_ciphertext": sent}
    for pause in STORE_PAUSES:
        try:
            return _update(values, condition)
        except (InterfaceError, OperationalError):
            connection = connections[database()]
            if not connection.autocommit:
                raise
            logger.warning("Account %s could not be stored; trying again", account.pk)
            connection.close_if_unusable_or_obsolete()
            time.sleep(pause)
    return _update(values, condition)


def give_back(lease_id: str, pks: Iterable[Any]) -> None:
    with suppress(DatabaseError):
        account_rows().filter(pk__in=list(pks), lease_id=lease_id).update(**NO_LEASE)


def _update(values: dict[str, Any], condition: dict[str, Any]) -> bool:
    """In plain SQL: the ORM would take longer to build this than a database takes to run it."""
    connection = connections[database()]
    table = connection.ops.quote_name(ConnectedAccount._meta.db_table)
    assignments, new = _equations(connection, values)
    conditions, old = _equations(connection, condition)
    query = f"UPDATE {table} SET {', '.join(assignments)} WHERE {' AND '.join(conditions)}"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(query, [*new, *old])
        return bool(cursor.rowcount == 1)


def _equations(
    connection: BaseDatabaseWrapper, values: dict[str, Any]
) -> tuple[list[str], list[Any]]:
    """``column = %s`` for each, and what the database is to put there."""
    fields = {field.attname: field for field in ConnectedAccount._meta.concrete_fields}
    return (
        [f"{connection.ops.quote_name(str(fields[name].column))} = %s" for name in values],
        [fields[name].get_db_prep_save(value, connection) for name, value in values.items()],
    )
