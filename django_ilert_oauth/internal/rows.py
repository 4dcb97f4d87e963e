"""Rows of the database that is written to: a replica may not have heard of the last change yet."""

from __future__ import annotations

from django.db import models, router

from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet, PendingRevocation


def database() -> str:
    return router.db_for_write(ConnectedAccount)


def account_rows() -> ConnectedAccountQuerySet:
    return ConnectedAccount.objects.using(database())


def pending_revocations() -> models.QuerySet[PendingRevocation]:
    return PendingRevocation.objects.using(database())
