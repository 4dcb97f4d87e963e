"""``save()`` for rows that others write meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar, Self

from django.db import models

#: In the order in which Django 5.2 still takes them without their names.
_SAVE_PARAMETERS = ("force_insert", "force_update", "using", "update_fields")


class PartialSave(models.Model):
    """Of the remembered columns, ``save()`` of a stored row writes those that this object has set.

    So an object that was read before somebody else wrote them brings nothing back.
    """

    #: Attribute names of fields.
    remembered_columns: ClassVar[Collection[str]]
    #: Written once, with the row.
    constant_column: ClassVar[str]

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        kwargs.update(zip(_SAVE_PARAMETERS, args, strict=False))
        is_stored = self.pk and not self._state.adding
        is_here = kwargs.get("using") in (None, self._state.db)
        is_complete = kwargs.get("update_fields") is None and not kwargs.get("force_insert")
        if is_stored and is_here and is_complete:
            kwargs["update_fields"] = self._columns_to_save()
        super().save(**kwargs)
        names = kwargs.get("update_fields")
        self.remember_stored(self.remembered_columns if names is None else names)

    @classmethod
    def from_db(
        cls, db: str | None, field_names: Collection[str], values: Collection[Any], **kwargs: Any
    ) -> Self:
        account = super().from_db(db, field_names, values, **kwargs)
        account.remember_stored(cls.remembered_columns)
        return account

    def refresh_from_db(self, *args: Any, **kwargs: Any) -> None:
        super().refresh_from_db(*args, **kwargs)
        named = kwargs.get("fields") or (args[1] if len(args) > 1 else None)
        self.remember_stored(self.remembered_columns if named is None else named)

    def take_stored(self, values: Mapping[str, Any]) -> None:
        """Takes over columns as they are stored: ``save()`` will not write them again."""
        for name, value in values.items():
            setattr(self, name, value)
        self.remember_stored(values)

    def is_as_stored(self, name: str) -> bool:
        """Whether this attribute is what was read or written; False where neither is remembered."""
        stored = self._stored_values
        return name in stored and bool(stored[name] == vars(self)[name])

    @property
    def _stored_values(self) -> dict[str, Any]:
        values: dict[str, Any] = vars(self).get("_stored", {})
        return values

    def _columns_to_save(self) -> list[str]:
        deferred = self.get_deferred_fields()
        return [
            field.name
            for field in self._meta.concrete_fields
            if not (field.primary_key or field.name == self.constant_column)
            if not (field.attname in deferred or self.is_as_stored(field.attname))
        ]

    def remember_stored(self, names: Iterable[str]) -> None:
        """Takes what these attributes hold for what the row holds."""
        columns = {"user_id" if name == "user" else name for name in names} & vars(self).keys()
        values = {name: vars(self)[name] for name in self.remembered_columns if name in columns}
        # A dictionary of its own for each object: copies share what they hold.
        self._stored = self._stored_values | values
