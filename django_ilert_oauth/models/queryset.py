"""Which accounts: those of a user, of a client, due for a refresh, with scopes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from django.db import models
from django.db.models.functions import Concat
from django.utils import timezone

from django_ilert_oauth.conf import conf
from django_ilert_oauth.internal import scopes
from django_ilert_oauth.internal.db import DatabaseTime

from .choices import Status

if TYPE_CHECKING:
    from .account import ConnectedAccount

#: A time that lies ahead no further than this was written just now, by another host or query.
CLOCK_TOLERANCE = timedelta(seconds=10)
#: An access token that is valid for longer may have been dated by a clock that was ahead.
USUAL_LIFETIME = timedelta(hours=1)
#: An access token this near to its expiry is due.
DUE_WITHIN = timedelta(minutes=15)
#: Of a grant this near to its end, users and administrators are told.
ENDING_WITHIN = timedelta(days=30)
#: A grant this near to its end is refreshed although its access token may be good for longer ...
GRANT_MARGIN = timedelta(days=7)
#: ... but not at every run: without rotation, a refresh does not move the end.
GRANT_RETRY = timedelta(days=1)
#: Without a refresh token there is nothing to be done before ilert refuses the access token.
UNKNOWN_EXPIRY = models.Q(access_token_expires_at=None) & ~models.Q(refresh_token_ciphertext="")


class ConnectedAccountQuerySet(models.QuerySet["ConnectedAccount"]):
    """A queryset of accounts; its methods can be chained."""

    def bulk_create(self, *args: Any, **kwargs: Any) -> list[ConnectedAccount]:
        created = super().bulk_create(*args, **kwargs)
        for account in created:
            account.remember_stored(account.remembered_columns)
        return created

    def bulk_update(
        self, objs: Iterable[ConnectedAccount], fields: Iterable[str], *args: Any, **kwargs: Any
    ) -> int:
        accounts, names = list(objs), list(fields)
        count = super().bulk_update(accounts, names, *args, **kwargs)
        for account in accounts:
            account.remember_stored(names)
        return count

    def connected(self) -> Self:
        """Accounts with the status ``CONNECTED``, whether or not their access token has expired."""
        return self.filter(status=Status.CONNECTED)

    def for_user(self, user: Any) -> Self:
        """Accounts that belong to this user of the site."""
        return self.filter(user=user)

    def manageable_by(self, user: Any) -> Self:
        """Accounts that the user may reconnect, disconnect and remove, besides the user's own.

        Override it in a subclass that ``ILERT_OAUTH_ACCOUNTS_FOR`` returns.
        """
        return self.for_user(user)

    def expiring(self, within: timedelta, *, now: datetime | None = None) -> Self:
        """Connected accounts that are due for a refresh.

        These are accounts whose access token expires within this time, or at an unknown time unless
        they have no refresh token; accounts whose grant ends within a week if they have not been
        refreshed for a day; and accounts whose last refresh lies in the future, since a clock was
        wrong. ``now`` defaults to the time of this host.
        """
        now = now or timezone.now()
        ahead = now + CLOCK_TOLERANCE
        connected = models.Q(status=Status.CONNECTED)
        access = models.Q(access_token_expires_at__lte=now + within)
        grant = models.Q(refresh_token_expires_at__lte=now + GRANT_MARGIN) & (
            models.Q(refreshed_at__isnull=True) | models.Q(refreshed_at__lte=now - GRANT_RETRY)
        )
        misdated = models.Q(access_token_expires_at__gt=now + USUAL_LIFETIME) & (
            models.Q(refreshed_at__gt=ahead)
            | models.Q(refreshed_at__isnull=True, connected_at__gt=ahead)
        )
        # The status stands in each branch, so that SQLite, too, takes an index for each.
        return self.filter(
            connected & access
            | connected & UNKNOWN_EXPIRY
            | connected & grant
            | connected & misdated
        )

    def of_client(self, name: str) -> Self:
        """Accounts of this client: ``"default"``, or a name in ``ILERT_OAUTH_CLIENTS``.

        Raises ``ImproperlyConfigured`` if there is no such client.
        """
        client = conf.client(name)
        return self.filter(api_url=client.api_url, client_id=client.client_id)

    def unleased(self) -> Self:
        """Accounts that no caller is refreshing right now."""
        return self.filter(lease_ends_ms__lte=DatabaseTime())

    def with_scopes(self, *required: str | Iterable[str]) -> Self:
        """Accounts that were granted all of these scopes, as ``has_scopes`` says."""
        space = models.Value(" ")
        accounts = self.alias(
            _held=Concat(space, "granted_scope", space, output_field=models.TextField())
        )
        for scope in scopes.split(scopes.union(*required)):
            matches = models.Q()
            for name in scopes.covering(scope):
                matches |= models.Q(_held__contains=f" {name} ")
            accounts = accounts.filter(matches)
        return accounts
