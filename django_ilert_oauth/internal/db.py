"""Where databases differ: names compared byte by byte, their clock, updates that never wait."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import OperationalError, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Collate
from django.db.models.lookups import IContains
from django.utils import timezone

#: PostgreSQL's serialization_failure and lock_not_available; MariaDB's lock wait timeout, deadlock
#: and "record has changed since last read".
CONTENTION = frozenset({"40001", "55P03", 1205, 1213, 1020})

if TYPE_CHECKING:
    CharField = models.CharField[str, str]
else:
    CharField = models.CharField


class ExactCharField(CharField):
    """Compared byte by byte on every database, in lookups as in constraints.

    SQLite and PostgreSQL do so anyway. The usual collations of MariaDB and MySQL take Grace, gráce
    and "grace " for the same.
    """

    def db_parameters(self, connection: Any) -> Any:
        parameters: dict[str, Any] = {**super().db_parameters(connection)}
        if connection.vendor == "mysql":
            is_mariadb = connection.mysql_is_mariadb
            parameters["collation"] = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
        return parameters


@ExactCharField.register_lookup
class LooselyContains(IContains):
    """A search, such as the admin's, ignores case nevertheless."""

    def as_mysql(self, compiler: Any, connection: Any) -> Any:
        loose = IContains(Collate(self.lhs, "utf8mb4_general_ci"), self.rhs)
        return loose.as_sql(compiler, connection)


class DatabaseTime(models.Expression):
    """Milliseconds since the epoch by the database's clock, whatever its time zone.

    ``plus`` is so many milliseconds later.
    """

    output_field = models.BigIntegerField()
    SQL = {
        "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
        "postgresql": "CAST(EXTRACT(EPOCH FROM CLOCK_TIMESTAMP()) * 1000 AS bigint)",
        "mysql": "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000)",
    }

    def __init__(self, plus: int = 0) -> None:
        super().__init__()
        self.plus = plus

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        return f"({self.SQL[connection.vendor]} + {self.plus})", ()


def has_one_writer(using: str) -> bool:
    """Whether any transaction that writes keeps all others from writing."""
    return connections[using].vendor == "sqlite"


def is_in_transaction(using: str) -> bool:
    """Also in that of a caller who commits by hand: it would be rolled back with the connection."""
    own = connections[using]
    return own.in_atomic_block or (own.connection is not None and not own.autocommit)


def moment(milliseconds: int) -> datetime:
    """What the site keeps in its columns for so many milliseconds since the epoch."""
    aware = datetime.fromtimestamp(milliseconds / 1000, UTC)
    # Not in the zone that a request may have activated, which ``timezone.now()`` does not know.
    zone = timezone.get_default_timezone()
    return aware if settings.USE_TZ else timezone.make_naive(aware, zone)


def database_now(using: str) -> datetime:
    """The database's time: hosts may disagree about theirs."""
    connection = connections[using]
    sql, _params = DatabaseTime().as_sql(None, connection)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {sql}")
        return moment(cursor.fetchone()[0])


def update_row(
    row: models.Model, values: Mapping[str, Any], conditions: Mapping[str, Any], *, using: str
) -> bool:
    """Writes the columns of one row where it still meets the conditions, without ever waiting.

    Conditions are column names, with ``__lte`` for "at most". All of them stand on the row that
    is updated, so that a database evaluates them again where another transaction has just changed
    it. Returns False where they do not hold, and where another transaction has locked the row
    (MySQL, which cannot say so in one statement, waits for ``innodb_lock_wait_timeout``).

    In plain SQL, since Django has no words for this in autocommit mode, and takes longer to build
    an ``UPDATE`` than a database takes to run it.
    """
    connection = connections[using]
    # Of the key: a subclass may have a table of its own beside it.
    key = row._meta.get_field("id")
    table = connection.ops.quote_name(key.model._meta.db_table)
    assignments, new = _equations(row, values, connection)
    clauses, old = _equations(row, {"id": row.pk, **conditions}, connection)
    query = f"UPDATE {table} SET {', '.join(assignments)} WHERE {' AND '.join(clauses)}"  # noqa: S608
    parameters = [*new, *old]
    if connection.vendor == "postgresql":
        query += f" AND id = (SELECT id FROM {table} WHERE id = %s FOR NO KEY UPDATE SKIP LOCKED)"  # noqa: S608
        parameters.append(row.pk)
    elif getattr(connection, "mysql_is_mariadb", False):
        query = f"SET STATEMENT innodb_lock_wait_timeout=0 FOR {query}"
    with connection.cursor() as cursor:
        try:
            cursor.execute(query, parameters)
        except OperationalError as error:
            if connection.in_atomic_block or not _is_contention(error):
                raise
            return False
        return bool(cursor.rowcount == 1)


def _is_contention(error: OperationalError) -> bool:
    """Whether another transaction has the row, or was faster under a strict isolation level."""
    driver_error = error.__cause__
    state = getattr(driver_error, "sqlstate", None) or getattr(driver_error, "pgcode", None)
    return not CONTENTION.isdisjoint({state, *error.args[:1]})


def _equations(
    row: models.Model, columns: Mapping[str, Any], connection: BaseDatabaseWrapper
) -> tuple[list[str], list[Any]]:
    """``column = %s`` or ``column <= %s`` for each, and what the database is to put there."""
    fields = {field.attname: field for field in row._meta.concrete_fields}
    texts, parameters = [], []
    for lookup, value in columns.items():
        name, _, operator = lookup.partition("__")
        column = connection.ops.quote_name(str(fields[name].column))
        placeholder = "%s"
        if isinstance(value, DatabaseTime):
            placeholder, _none = value.as_sql(None, connection)
        else:
            parameters.append(fields[name].get_db_prep_save(value, connection))
        texts.append(f"{column} {'<=' if operator == 'lte' else '='} {placeholder}")
    return texts, parameters
