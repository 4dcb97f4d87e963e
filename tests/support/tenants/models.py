from __future__ import annotations

from typing import Any

from django.db import models
from django_tenants.models import DomainMixin, TenantMixin


class Tenant(TenantMixin):  # type: ignore[misc]
    name: Any = models.CharField(max_length=50)

    class Meta:
        app_label = "tenants"

    def __str__(self) -> str:
        return str(self.name)


class Domain(DomainMixin):  # type: ignore[misc]
    class Meta:
        app_label = "tenants"
