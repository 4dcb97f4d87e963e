"""Expired tokens in the tables of the app and of its peers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.apps import apps
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db.models import Model
from django.utils import timezone

from django_ilert_oauth.conf import conf
from django_ilert_oauth.models import ConnectedAccount

from .token_endpoint import RESPONSE

#: Rows that are made and inserted at once; few, so that the memory they take does not count.
BATCH = 100
TOKENS = {"access_token": RESPONSE["access_token"], "refresh_token": RESPONSE["refresh_token"]}
ESI_KEYS = "esi_sso_jwks"


def accounts(count: int, *, expired: int | None = None) -> None:
    """So many, all of them expired or so many, evenly spread."""
    user, now, step = _user(), timezone.now(), count // (expired or count)

    def account(number: int) -> ConnectedAccount:
        in_minutes = -1 if number % step == 0 else 50
        return ConnectedAccount(
            user=user,
            api_url=conf.api_url,
            tenant_id="acme",
            username=f"person-{number}",
            requested_scope=RESPONSE["scope"],
            granted_scope=RESPONSE["scope"],
            access_token_expires_at=now + timedelta(minutes=in_minutes),
            refresh_token_expires_at=now + timedelta(days=365),
            refreshed_at=now - timedelta(hours=1),
            **TOKENS,
        )

    _replace(ConnectedAccount, count, account)


def esi_tokens(count: int) -> None:
    """With no keys to check a token's signature by, which spares django-esi that work."""
    token, user = peer_model("esi.Token"), _user()
    _replace(
        token,
        count,
        lambda number: token(
            user=user, character_id=number, character_name="-", character_owner_hash="-", **TOKENS
        ),
    )
    token._default_manager.update(created=timezone.now() - timedelta(days=1))
    cache.set(ESI_KEYS, {"keys": []}, timeout=None)


def social_auths(count: int) -> None:
    social, user = peer_model("social_django.UserSocialAuth"), _user()
    _replace(
        social,
        count,
        lambda number: social(
            user=user, provider="keycloak", uid=str(number), extra_data={**TOKENS, "expires": 0}
        ),
    )


def peer_model(label: str) -> Any:
    """Not imported, since the peers are installed for the benchmarks only."""
    return apps.get_model(label)


def _user() -> User:
    return User.objects.get_or_create(username="site-user")[0]


def _replace(model: type[Model], count: int, make: Callable[[int], Any]) -> None:
    rows = model._default_manager
    rows.all()._raw_delete(rows.db)
    for start in range(0, count, BATCH):
        rows.bulk_create(make(number) for number in range(start, min(start + BATCH, count)))
