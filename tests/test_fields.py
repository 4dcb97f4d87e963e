"""What each database is told; what comes of it on the one at hand is tested with the models."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection

from django_ilert_oauth.fields import LooselyContains
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
