"""A site that keeps accounts in an admin of its own, beside Django's."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from django_ilert_oauth.admin import ConnectedAccountAdmin
from django_ilert_oauth.models import ConnectedAccount

operations = admin.AdminSite(name="operations")
operations.register(ConnectedAccount, ConnectedAccountAdmin)

urlpatterns = [path("admin/", admin.site.urls), path("operations/", operations.urls)]
