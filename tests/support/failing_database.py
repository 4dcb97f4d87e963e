"""A database that fails."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from django.db import DatabaseError, connection


def refused_by_database(start: str, table: str) -> AbstractContextManager[object]:
    """Once, as a database does, whose errors quote the row."""
    waiting = [start]

    def refuse(execute: Any, sql: str, params: Any, *args: Any) -> Any:
        if waiting and sql.startswith(start) and table in sql:
            waiting.clear()
            raise DatabaseError(f"{sql} failed for {params}")
        return execute(sql, params, *args)

    return connection.execute_wrapper(refuse)
