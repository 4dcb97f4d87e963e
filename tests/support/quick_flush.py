"""What a test has committed is deleted after it, row by row, and nothing else is done.

Django would truncate the tables, which takes PostgreSQL far longer than a few rows do, and would
then make each content type and permission again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.management import create_contenttypes
from django.contrib.contenttypes.models import ContentType
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.signals import post_migrate

KEPT = {ContentType._meta.db_table, Permission._meta.db_table}


def flush_quickly(connection: BaseDatabaseWrapper) -> None:
    """From now on, once the tables are there."""
    operations, flush = connection.ops, connection.ops.sql_flush

    def delete_rows(style: Any, tables: Sequence[str], **options: Any) -> list[str]:
        tables = [table for table in tables if table not in KEPT]
        if connection.vendor == "postgresql":
            return [f"DELETE FROM {operations.quote_name(table)};" for table in tables]  # noqa: S608
        return flush(style, tables, **options)

    setattr(operations, "sql_flush", delete_rows)  # noqa: B010
    post_migrate.disconnect(create_contenttypes)
    post_migrate.disconnect(dispatch_uid=f"{create_permissions.__module__}.create_permissions")
