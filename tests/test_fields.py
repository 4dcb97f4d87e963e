"""What each database is told; what comes of it on the one at hand is tested with the models."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection

from django_ilert_oauth.internal.db import LooselyContains, update_row
from django_ilert_oauth.models import ConnectedAccount

USERNAME = ConnectedAccount._meta.get_field("username")


@pytest.mark.parametrize(
    ("vendor", "is_mariadb", "collation"),
    [
        ("sqlite", False, None),
        ("postgresql", False, None),
        ("mysql", True, "utf8mb4_nopad_bin"),
        ("mysql", False, "utf8mb4_0900_bin"),
    ],
)
def test_each_database_is_asked_for_a_column_that_is_compared_byte_by_byte(
    monkeypatch: pytest.MonkeyPatch, vendor: str, is_mariadb: bool, collation: str | None
) -> None:
    monkeypatch.setattr(connection, "vendor", vendor)
    monkeypatch.setattr(connection, "mysql_is_mariadb", is_mariadb, raising=False)
    parameters: dict[str, Any] = {**USERNAME.db_parameters(connection)}
    assert parameters["collation"] == collation


def test_where_the_column_is_exact_a_search_is_not() -> None:
    query = ConnectedAccount.objects.filter(username__icontains="GRA").query
    [search] = query.where.children
    assert isinstance(search, LooselyContains)
    sql, _parameters = search.as_mysql(query.get_compiler("default"), connection)
    assert "COLLATE" in sql
    assert "utf8mb4_general_ci" in sql


@pytest.mark.parametrize(
    ("vendor", "is_mariadb", "told"),
    [
        ("postgresql", False, "FOR NO KEY UPDATE SKIP LOCKED"),
        ("mysql", True, "SET STATEMENT innodb_lock_wait_timeout=0 FOR UPDATE"),
        ("mysql", False, "UPDATE"),
        ("sqlite", False, "UPDATE"),
    ],
)
@pytest.mark.django_db
def test_each_database_is_told_not_to_wait_for_a_locked_row_as_far_as_it_can(
    monkeypatch: pytest.MonkeyPatch, vendor: str, is_mariadb: bool, told: str
) -> None:
    statements: list[tuple[str, list[Any]]] = []
    note = connection.execute_wrapper(lambda _do, sql, params, *_: statements.append((sql, params)))
    monkeypatch.setattr(connection, "vendor", vendor)
    monkeypatch.setattr(connection, "mysql_is_mariadb", is_mariadb, raising=False)
    with note:
        update_row(
            ConnectedAccount(pk=7), {"last_error": "busy"}, {"lease_id": ""}, using="default"
        )
    [(sql, params)] = statements
    assert told in sql
    assert sql.count("%s") == len(params)
