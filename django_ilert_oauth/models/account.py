"""The connected accounts."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from django_ilert_oauth.internal import crypto, scopes
from django_ilert_oauth.internal.db import ExactCharField
from django_ilert_oauth.oauth.secret import Secret

from .choices import Reason, Status
from .partial_save import PartialSave
from .queryset import CLOCK_TOLERANCE, ConnectedAccountQuerySet
from .records import AccountEvent

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise

    from django_ilert_oauth.oauth.responses import TokenResponse


def configured_client_id() -> str:
    return getattr(settings, "ILERT_OAUTH_CLIENT_ID", "")


#: What flows write.
GRANT_COLUMNS = [
    "client_id",
    "granted_scope",
    "access_token_ciphertext",
    "refresh_token_ciphertext",
    "access_token_expires_at",
    "refresh_token_expires_at",
    "grant_extended_at",
    "status",
    "reason",
    "status_changed_at",
    "connected_at",
    "refreshed_at",
    "last_error",
    "last_error_at",
    "notified_at",
    "lease_id",
    "lease_ends_ms",
]


class ConnectedAccount(PartialSave):
    """One person in one tenant of one ilert, connected by one user of this site.

    ``access_token`` and ``refresh_token`` encrypt when set and decrypt when read. ``save()`` of a
    stored account writes owner, name, tokens, expiries, status and lease only if your code has set
    them on this object, so an object that was read before a refresh overwrites no newer token.
    """

    Status = Status
    Reason = Reason
    remembered_columns = [*GRANT_COLUMNS, "user_id", "tenant_id", "username"]
    constant_column = "uuid"

    #: What the tokens are encrypted for; never changes.
    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.CASCADE,
        related_name="ilert_accounts",
        verbose_name=_("user"),
    )
    #: The client of ilert that the grant was given to; its tokens are sent for no other.
    client_id = models.CharField(
        _("client ID"), max_length=200, default=configured_client_id, editable=False
    )
    api_url = ExactCharField(_("API of ilert"), max_length=200)
    tenant_id = ExactCharField(_("tenant"), max_length=100)
    username = ExactCharField(_("username"), max_length=255)
    ilert_user_id = models.BigIntegerField(_("user ID at ilert"), null=True, blank=True)
    display_name = models.CharField(_("name"), max_length=255, blank=True)
    email = models.CharField(_("e-mail"), max_length=254, blank=True)
    requested_scope = models.TextField(_("requested scope"), blank=True)
    granted_scope = models.TextField(_("granted scope"), blank=True)
    access_token_ciphertext = models.TextField(blank=True, editable=False)
    refresh_token_ciphertext = models.TextField(blank=True, editable=False)
    access_token_expires_at = models.DateTimeField(_("access expires"), null=True, blank=True)
    refresh_token_expires_at = models.DateTimeField(_("grant expires"), null=True, blank=True)
    #: When its end was last moved: earlier than the last refresh where that has not moved it.
    grant_extended_at = models.DateTimeField(default=timezone.now, editable=False)
    status = models.CharField(_("status"), max_length=20, choices=Status, default=Status.CONNECTED)
    reason = models.CharField(_("reason"), max_length=20, choices=Reason, blank=True)
    status_changed_at = models.DateTimeField(_("status changed"), default=timezone.now)
    connected_at = models.DateTimeField(_("connected"), default=timezone.now)
    refreshed_at = models.DateTimeField(_("last refreshed"), null=True, blank=True)
    last_error = models.CharField(_("last error"), max_length=40, blank=True)
    last_error_at = models.DateTimeField(_("last error at"), null=True, blank=True)
    #: When the user was last told that the grant has ended, or will.
    notified_at = models.DateTimeField(null=True, editable=False)
    lease_id = models.CharField(max_length=32, blank=True, editable=False)
    lease_ends_ms = models.BigIntegerField(default=0, editable=False)

    objects = ConnectedAccountQuerySet.as_manager()

    class Meta:
        verbose_name = _("ilert account")
        verbose_name_plural = _("ilert accounts")
        constraints = [
            models.UniqueConstraint(
                fields=["user", "api_url", "tenant_id", "username"],
                name="ilert_oauth_account_identity",
            )
        ]
        indexes = [
            models.Index(fields=["status", "access_token_expires_at"], name="ilert_oauth_access"),
            models.Index(fields=["status", "refresh_token_expires_at"], name="ilert_oauth_grant"),
            models.Index(fields=["last_error_at"], name="ilert_oauth_error"),
        ]
        permissions = [
            ("refresh_connectedaccount", _("Can refresh ilert accounts")),
            ("check_connectedaccount", _("Can check ilert accounts")),
            ("disconnect_connectedaccount", _("Can disconnect ilert accounts")),
        ]

    def __str__(self) -> str:
        return f"{self.username} @ {self.tenant_id}"

    @property
    def has_new_user(self) -> bool:
        """Whether it belongs to another user than when it was read."""
        return "user_id" in self._stored_values and not self.is_as_stored("user_id")

    @property
    def access_token(self) -> Secret:
        """The decrypted access token, masked when shown; empty if there is none.

        Raises ``TokenDecryptionError`` if no configured key decrypts it.
        """
        return _decrypted(self.access_token_ciphertext, self.place_of("access_token"))

    @access_token.setter
    def access_token(self, token: Secret | str) -> None:
        self.access_token_ciphertext = _encrypted(token, self.place_of("access_token"))

    @property
    def refresh_token(self) -> Secret:
        """The decrypted refresh token, masked when shown; empty if there is none.

        Raises ``TokenDecryptionError`` if no configured key decrypts it.
        """
        return _decrypted(self.refresh_token_ciphertext, self.place_of("refresh_token"))

    @refresh_token.setter
    def refresh_token(self, token: Secret | str) -> None:
        self.refresh_token_ciphertext = _encrypted(token, self.place_of("refresh_token"))

    def place_of(self, token_name: str) -> crypto.Place:
        """What ``access_token`` or ``refresh_token`` is encrypted for."""
        return (str(self.uuid), self.api_url, token_name)

    @property
    def needs_reconnect(self) -> bool:
        """Whether the grant has ended and only the user can give another one."""
        return self.status == Status.RECONNECT_REQUIRED

    @property
    def is_readable(self) -> bool:
        """Whether the configured keys decrypt the stored tokens."""
        return all(
            crypto.key_number(ciphertext, self.place_of(name))
            for name in ("access_token", "refresh_token")
            if (ciphertext := getattr(self, f"{name}_ciphertext"))
        )

    @property
    def events(self) -> models.QuerySet[AccountEvent]:
        """The history of the account, the latest event first."""
        events = AccountEvent.objects.using(self._state.db)
        return events.filter(account_uuid=self.uuid).order_by("-at", "-pk")

    @property
    def status_text(self) -> StrOrPromise:
        """The status and its reason in words."""
        if not self.is_readable:
            return _("cannot be read: reconnect")
        status, reason = self.get_status_display(), self.get_reason_display()
        return f"{status}: {reason}" if reason else status

    @property
    def scope_sentences(self) -> list[StrOrPromise]:
        """What the granted scopes allow, one sentence for each."""
        return scopes.describe(self.granted_scope)

    def has_scopes(self, *required: str | Iterable[str]) -> bool:
        """Whether all of these scopes were granted; ``source:w`` includes ``source:r``."""
        return scopes.covers(self.granted_scope, scopes.union(*required))

    def is_fresh(self, margin: timedelta = timedelta(0), *, now: datetime | None = None) -> bool:
        """Whether it is connected and its access token is valid for longer than ``margin``.

        ``now`` defaults to the time of this host. An expiry is not believed that was dated by a
        clock which was ahead. An unknown one is too early, unless there is no refresh token: then
        the access token is used until ilert refuses it.
        """
        if self.status != Status.CONNECTED or not self.access_token_ciphertext:
            return False
        expires_at, now = self.access_token_expires_at, now or timezone.now()
        if expires_at is None:
            return not self.refresh_token_ciphertext
        is_misdated = (self.refreshed_at or self.connected_at) > now + CLOCK_TOLERANCE
        return expires_at - margin > now and not is_misdated

    def was_refreshed_within(self, interval: timedelta, *, now: datetime | None = None) -> bool:
        """Whether the last refresh is less than the interval ago, and not in the future."""
        if self.refreshed_at is None:
            return False
        age = (now or timezone.now()) - self.refreshed_at
        return -min(interval, CLOCK_TOLERANCE) < age < interval

    def take_tokens(self, tokens: TokenResponse, now: datetime) -> list[str]:
        """Sets what ilert has given at this moment, and returns the names of the columns.

        A response without refresh token or scope leaves what the account has.
        """
        names = ["access_token_ciphertext", "access_token_expires_at"]
        self.access_token = tokens.access_token
        self.access_token_expires_at = _later(now, tokens.expires_in)
        if tokens.refresh_token:
            names += ["refresh_token_ciphertext", "refresh_token_expires_at"]
            ends_at = _later(now, tokens.refresh_token_expires_in)
            if _is_later(ends_at, self.refresh_token_expires_at):
                names.append("grant_extended_at")
                self.grant_extended_at = now
            self.refresh_token = tokens.refresh_token
            self.refresh_token_expires_at = ends_at
        if tokens.scope:
            names.append("granted_scope")
            self.granted_scope = tokens.scope
        return names


def _encrypted(token: Secret | str, place: crypto.Place) -> str:
    return crypto.encrypt(Secret(token), place) if token else ""


def _decrypted(ciphertext: str, place: crypto.Place) -> Secret:
    return crypto.decrypt(ciphertext, place) if ciphertext else Secret()


def _later(now: datetime, seconds: int | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=seconds)


def _is_later(end: datetime | None, than: datetime | None) -> bool:
    """A new token may bring the old end along, in seconds; None is never, or unknown."""
    return end is None or than is None or end > than + CLOCK_TOLERANCE
