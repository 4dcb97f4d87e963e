"""A site of django-tenants, with the app both in the public schema and in each tenant's."""

from __future__ import annotations

import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

DATABASES["default"]["ENGINE"] = "django_tenants.postgresql_backend"
DATABASES["default"]["NAME"] = os.environ["TENANT_DATABASE"]
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]

TENANT_MODEL = "tenants.Tenant"
TENANT_DOMAIN_MODEL = "tenants.Domain"
TENANT_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django_ilert_oauth",
]
INSTALLED_APPS = ["django_tenants", "tests.support.tenants", *TENANT_APPS]
SHARED_APPS = INSTALLED_APPS
ROOT_URLCONF = "tests.support.tenant_settings"
urlpatterns: list[object] = []
