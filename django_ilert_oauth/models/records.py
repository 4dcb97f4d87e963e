"""What is kept beside the accounts: of revocations, changes, runs and attempts to connect."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from django_ilert_oauth.internal import crypto
from django_ilert_oauth.oauth.secret import Secret


class PendingRevocation(models.Model):
    """A grant that has ended here and that ilert has not confirmed yet.

    Written in the transaction that ends the grant, deleted once ilert has confirmed the revocation.
    """

    account_uuid = models.UUIDField(_("account"), editable=False)
    client_id = models.CharField(_("client ID"), max_length=200)
    api_url = models.CharField(_("API of ilert"), max_length=200)
    tenant_id = models.CharField(_("tenant"), max_length=100)
    username = models.CharField(_("username"), max_length=255)
    refresh_token_ciphertext = models.TextField(editable=False)
    #: When the grant ends by itself; null: never.
    grant_ends_at = models.DateTimeField(_("grant expires"), null=True)
    created_at = models.DateTimeField(_("since"), default=timezone.now)
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    next_attempt_at = models.DateTimeField(_("next attempt"), null=True)
    last_error = models.CharField(_("last error"), max_length=40, blank=True)
    last_error_at = models.DateTimeField(_("last error at"), null=True, blank=True)
    given_up_at = models.DateTimeField(_("given up"), null=True, blank=True)

    class Meta:
        verbose_name = _("pending revocation")
        verbose_name_plural = _("pending revocations")

    def __str__(self) -> str:
        return f"{self.username} @ {self.tenant_id}"

    @property
    def refresh_token(self) -> Secret:
        """Raises ``TokenDecryptionError``."""
        return crypto.decrypt(self.refresh_token_ciphertext, self.place_of("refresh_token"))

    def place_of(self, token_name: str) -> crypto.Place:
        return (str(self.account_uuid), self.api_url, token_name)


class AccountEvent(models.Model):
    """A change of an account, kept by its ``uuid`` even after the account is deleted."""

    class Kind(models.TextChoices):
        CONNECTED = "connected", _("connected")
        RECONNECTED = "reconnected", _("reconnected")
        SCOPES_CHANGED = "scopes_changed", _("scopes changed")
        REFRESH_FAILED = "refresh_failed", _("refresh failed")
        RECOVERED = "recovered", _("recovered")
        RECONNECT_REQUIRED = "reconnect_required", _("needs reconnecting")
        DISCONNECTED = "disconnected", _("disconnected")
        RENAMED = "renamed", _("renamed at ilert")
        HANDED_OVER = "handed_over", _("handed over to another user")
        DELETED = "deleted", _("deleted")

    class By(models.TextChoices):
        USER = "user", _("user")
        ADMIN = "admin", _("administrator")
        COMMAND = "command", _("command")
        ILERT = "ilert", _("ilert")

    account_uuid = models.UUIDField(editable=False)
    at = models.DateTimeField(default=timezone.now, db_index=True)
    kind = models.CharField(max_length=20, choices=Kind)
    by = models.CharField(max_length=10, choices=By, blank=True)
    #: Of the error, or the reason.
    code = models.CharField(max_length=40, blank=True)
    #: The log has it, too.
    reference = models.CharField(max_length=8)
    client_id = models.CharField(max_length=200)

    class Meta:
        verbose_name = _("event of an account")
        verbose_name_plural = _("events of accounts")
        indexes = [models.Index(fields=["account_uuid", "at"], name="ilert_oauth_event")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}, {self.at:%Y-%m-%d %H:%M}"


class LastRun(models.Model):
    """When a command or a queue last went over many accounts."""

    class Kind(models.TextChoices):
        REFRESH = "refresh", _("refresh")
        QUEUE = "queue", _("queue")
        CHECK = "check", _("check")
        ROTATE = "rotate", _("rotate keys")

    kind = models.CharField(max_length=10, choices=Kind, primary_key=True)
    at = models.DateTimeField()

    class Meta:
        verbose_name = _("last run")
        verbose_name_plural = _("last runs")

    def __str__(self) -> str:
        return f"{self.get_kind_display()}, {self.at:%Y-%m-%d %H:%M}"


class AuthorizationRequest(models.Model):
    """One user on the way to ilert and back; consumed once, within ten minutes.

    Its key is the digest of the state, which lets nobody in. Kept in a table and not in the
    session: sessions are read, changed and written, so two callbacks at once would both find theirs
    unused, and one tab would undo what another has written.
    """

    state_digest = models.CharField(max_length=64, primary_key=True, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    #: Empty where nothing tells the browser from others of the user.
    browser_digest = models.CharField(max_length=64, blank=True, editable=False)
    #: Wiped when it is consumed.
    code_verifier_ciphertext = models.TextField(blank=True, editable=False)
    client_id = models.CharField(max_length=200)
    api_url = models.CharField(max_length=200)
    requested_scope = models.TextField(blank=True)
    next_url = models.TextField(blank=True)
    #: The account to reconnect. No foreign key: what becomes of it changes nothing here.
    account_uuid = models.UUIDField(null=True)
    expires_at = models.DateTimeField(db_index=True)
    consumed_at = models.DateTimeField(null=True)
    #: What it has connected.
    connected_uuid = models.UUIDField(null=True)

    class Meta:
        verbose_name = _("authorization request")
        verbose_name_plural = _("authorization requests")

    def __str__(self) -> str:
        return f"{self.state_digest[:8]}, until {self.expires_at:%Y-%m-%d %H:%M}"

    @property
    def code_verifier(self) -> Secret:
        """Raises ``TokenDecryptionError``."""
        return crypto.decrypt(self.code_verifier_ciphertext, self._place)

    @code_verifier.setter
    def code_verifier(self, code_verifier: Secret) -> None:
        self.code_verifier_ciphertext = crypto.encrypt(code_verifier, self._place)

    @property
    def _place(self) -> crypto.Place:
        return (self.state_digest, "code_verifier")
