"""A site whose users work with the accounts of their groups; staff also look after those."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet


class TeamAccounts(ConnectedAccountQuerySet):
    def manageable_by(self, user: Any) -> TeamAccounts:
        return self.filter(user__groups__in=user.groups.all()) if user.is_staff else self.none()


def accounts_for(request: HttpRequest) -> ConnectedAccountQuerySet:
    """Through two groups that two users share, an account is listed twice."""
    user: Any = request.user
    return TeamAccounts(ConnectedAccount).filter(user__groups__in=user.groups.all())
