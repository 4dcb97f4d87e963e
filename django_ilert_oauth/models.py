"""The connected accounts, the revocations that ilert has not heard of yet, and used attempts.

Models hold data and answer questions; what is done to an account is done by ``flows``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from django.conf import settings
from django.db import models
from django.db.models.functions import Concat
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from . import crypto, scopes
from .fields import ExactCharField
from .secret import Secret

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise

#: A grant this near to its end is renewed although its access token may be good for longer ...
GRANT_MARGIN = timedelta(days=7)
#: ... but not at every run: without rotation, renewing does not move the end.
GRANT_RETRY = timedelta(days=1)


class Status(models.TextChoices):
    CONNECTED = "connected", _("connected")
    RECONNECT_REQUIRED = "reconnect_required", _("needs reconnecting")
    DISCONNECTED = "disconnected", _("disconnected")


class Reason(models.TextChoices):
    USER = "user", _("by the user")
    ADMIN = "admin", _("by an administrator")
    REVOKED_AT_ILERT = "revoked_at_ilert", _("access was revoked at ilert")
    EXPIRED = "expired", _("access has run out")
    DELETED = "deleted", _("the account was deleted")


class DatabaseTime(models.Expression):
    """Milliseconds since the epoch by the database's clock, whatever its time zone."""

    output_field = models.BigIntegerField()
    SQL = {
        "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
        "postgresql": "CAST(EXTRACT(EPOCH FROM CLOCK_TIMESTAMP()) * 1000 AS bigint)",
        "mysql": "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000)",
    }

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        return self.SQL[connection.vendor], ()


class ConnectedAccountQuerySet(models.QuerySet["ConnectedAccount"]):
    def connected(self) -> Self:
        return self.filter(status=Status.CONNECTED)

    def for_user(self, user: Any) -> Self:
        return self.filter(user=user)

    def expiring(self, within: timedelta) -> Self:
        """Connected accounts due for renewal.

        Those whose access token runs out within the time or at an unknown time, and those whose
        grant ends within a week and that were not renewed for a day.
        """
        now = timezone.now()
        connected = models.Q(status=Status.CONNECTED)
        access = models.Q(access_token_expires_at__lte=now + within)
        unknown = models.Q(access_token_expires_at__isnull=True)
        grant = models.Q(refresh_token_expires_at__lte=now + GRANT_MARGIN) & (
            models.Q(refreshed_at__isnull=True) | models.Q(refreshed_at__lte=now - GRANT_RETRY)
        )
        # The status stands in each branch, so that SQLite, too, takes an index for each.
        return self.filter(connected & access | connected & unknown | connected & grant)

    def unleased(self) -> Self:
        """Those that no caller is refreshing right now."""
        return self.filter(lease_ends_ms__lte=DatabaseTime())

    def with_scopes(self, *required: str | Iterable[str]) -> Self:
        """Accounts granted all of these, by ilert's hierarchy of levels."""
        space = models.Value(" ")
        accounts = self.alias(
            _held=Concat(space, "granted_scope", space, output_field=models.TextField())
        )
        for scope in scopes.split(scopes.union(*required)):
            fits = models.Q()
            for name in scopes.covering(scope):
                fits |= models.Q(_held__contains=f" {name} ")
            accounts = accounts.filter(fits)
        return accounts


class ConnectedAccount(models.Model):
    """One person in one tenant of one ilert, connected by one user of this site.

    ``access_token`` and ``refresh_token`` encrypt when set and decrypt when read; set them after
    (or in the constructor together with) the columns of ``identity``, which the keys depend on.
    """

    Status = Status
    Reason = Reason

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.CASCADE,
        related_name="ilert_accounts",
        verbose_name=_("user"),
    )
    api_url = ExactCharField(_("ilert API"), max_length=200)
    tenant_id = ExactCharField(_("tenant"), max_length=100)
    username = ExactCharField(_("username"), max_length=255)
    ilert_user_id = models.BigIntegerField(_("ilert user ID"), null=True, blank=True)
    display_name = models.CharField(_("name"), max_length=255, blank=True)
    email = models.CharField(_("e-mail"), max_length=254, blank=True)
    requested_scope = models.TextField(_("requested scope"), blank=True)
    granted_scope = models.TextField(_("granted scope"), blank=True)
    access_token_ciphertext = models.TextField(blank=True, editable=False)
    refresh_token_ciphertext = models.TextField(blank=True, editable=False)
    access_token_expires_at = models.DateTimeField(_("access expires"), null=True, blank=True)
    refresh_token_expires_at = models.DateTimeField(_("grant expires"), null=True, blank=True)
    status = models.CharField(_("status"), max_length=20, choices=Status, default=Status.CONNECTED)
    reason = models.CharField(_("reason"), max_length=20, choices=Reason, blank=True)
    status_changed_at = models.DateTimeField(_("status changed"), default=timezone.now)
    connected_at = models.DateTimeField(_("connected"), default=timezone.now)
    refreshed_at = models.DateTimeField(_("last renewed"), null=True, blank=True)
    last_error = models.CharField(_("last error"), max_length=40, blank=True)
    last_error_at = models.DateTimeField(_("last error at"), null=True, blank=True)
    lease_id = models.CharField(max_length=32, blank=True, editable=False)
    lease_ends_ms = models.BigIntegerField(default=0, editable=False)

    objects = ConnectedAccountQuerySet.as_manager()

    class Meta:
        verbose_name = _("connected ilert account")
        verbose_name_plural = _("connected ilert accounts")
        constraints = [
            models.UniqueConstraint(
                fields=["user", "api_url", "tenant_id", "username"],
                name="ilert_oauth_account_identity",
            )
        ]
        indexes = [
            models.Index(fields=["status", "access_token_expires_at"], name="ilert_oauth_access"),
            models.Index(fields=["status", "refresh_token_expires_at"], name="ilert_oauth_grant"),
        ]
        permissions = [
            ("refresh_connectedaccount", _("Can refresh connected ilert accounts")),
            ("check_connectedaccount", _("Can check connected ilert accounts")),
            ("disconnect_connectedaccount", _("Can disconnect connected ilert accounts")),
        ]

    def __str__(self) -> str:
        return f"{self.username} @ {self.tenant_id}"

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What the encryption keys are derived for."""
        if self.user_id is None:
            raise ValueError("Give the account a saved user before its tokens.")
        return (str(self.user_id), self.api_url, self.tenant_id, self.username)

    @property
    def access_token(self) -> Secret:
        """Empty without one. Raises ``TokenDecryptionError``, never returns ciphertext."""
        return _decrypted(self.access_token_ciphertext, self.identity)

    @access_token.setter
    def access_token(self, token: str) -> None:
        self.access_token_ciphertext = _encrypted(token, self.identity)

    @property
    def refresh_token(self) -> Secret:
        """Empty without one. Raises ``TokenDecryptionError``, never returns ciphertext."""
        return _decrypted(self.refresh_token_ciphertext, self.identity)

    @refresh_token.setter
    def refresh_token(self, token: str) -> None:
        self.refresh_token_ciphertext = _encrypted(token, self.identity)

    @property
    def needs_reconnect(self) -> bool:
        return self.status == Status.RECONNECT_REQUIRED

    @property
    def is_readable(self) -> bool:
        """Whether the configured keys open what is stored."""
        texts = filter(None, (self.access_token_ciphertext, self.refresh_token_ciphertext))
        return all(crypto.key_number(text, self.identity) for text in texts)

    @property
    def status_text(self) -> StrOrPromise:
        """The status and its reason in words."""
        if not self.is_readable:
            return _("cannot be read: reconnect")
        status, reason = self.get_status_display(), self.get_reason_display()
        return f"{status}: {reason}" if reason else status

    @property
    def scope_sentences(self) -> list[StrOrPromise]:
        return scopes.describe(self.granted_scope)

    def has_scopes(self, *required: str | Iterable[str]) -> bool:
        return scopes.covers(self.granted_scope, scopes.union(*required))

    def is_fresh(self, margin: timedelta = timedelta(0)) -> bool:
        """Connected, with an access token that is known to be good for longer than the margin."""
        expires_at = self.access_token_expires_at
        return (
            self.status == Status.CONNECTED
            and self.access_token_ciphertext != ""
            and expires_at is not None
            and expires_at - margin > timezone.now()
        )

    def was_refreshed_within(self, interval: timedelta) -> bool:
        return self.refreshed_at is not None and self.refreshed_at > timezone.now() - interval


class PendingRevocation(models.Model):
    """A grant that has ended here and not yet at ilert.

    Written in the transaction that ends the grant, deleted once ilert has heard of it. The columns
    of the identity are copied, since the ciphertext opens only with them.
    """

    user_key = models.CharField(max_length=255)
    api_url = models.CharField(max_length=200)
    tenant_id = models.CharField(max_length=100)
    username = models.CharField(max_length=255)
    refresh_token_ciphertext = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)
    last_error = models.CharField(max_length=40, blank=True)
    last_error_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("pending revocation")
        verbose_name_plural = _("pending revocations")

    def __str__(self) -> str:
        return f"{self.username} @ {self.tenant_id}"

    @property
    def identity(self) -> tuple[str, str, str, str]:
        return (self.user_key, self.api_url, self.tenant_id, self.username)

    @property
    def refresh_token(self) -> Secret:
        """Raises ``TokenDecryptionError``."""
        return _decrypted(self.refresh_token_ciphertext, self.identity)


class UsedAttempt(models.Model):
    """An attempt to connect that one callback has taken, and what it connected.

    Its key is the digest of the state, which lets nobody in. Not a session's business: sessions
    are read, changed and written, so two callbacks at once would both find theirs unused.
    """

    digest = models.CharField(max_length=64, primary_key=True)
    #: No foreign key, since what has been used stays used when the account is deleted.
    account_pk = models.BigIntegerField(null=True)
    used_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        verbose_name = _("used attempt to connect")
        verbose_name_plural = _("used attempts to connect")

    def __str__(self) -> str:
        return f"{self.digest[:8]}, {self.used_at:%Y-%m-%d %H:%M}"


def _encrypted(token: str, identity: tuple[str, ...]) -> str:
    return crypto.encrypt(token, identity) if token else ""


def _decrypted(ciphertext: str, identity: tuple[str, ...]) -> Secret:
    return crypto.decrypt(ciphertext, identity) if ciphertext else Secret()
