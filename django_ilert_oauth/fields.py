"""A column for names that are told apart to the letter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models.functions import Collate
from django.db.models.lookups import IContains

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
    """A search, such as the admin's, takes capital and small letters for the same all the same."""

    def as_mysql(self, compiler: Any, connection: Any) -> Any:
        loose = IContains(Collate(self.lhs, "utf8mb4_general_ci"), self.rhs)
        return loose.as_sql(compiler, connection)
