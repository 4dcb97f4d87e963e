"""The connected accounts, the pending revocations and the authorization requests.

Models hold data and derive values from it; ``flows`` do what is done to an account.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from django.conf import settings
from django.db import models
from django.db.models.functions import Concat
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .conf import conf
from .internal import crypto, scopes
from .internal.db import DatabaseTime, ExactCharField
from .oauth.secret import Secret

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise

    from .oauth.responses import TokenResponse

#: A grant this near to its end is refreshed although its access token may be good for longer ...
GRANT_MARGIN = timedelta(days=7)
#: ... but not at every run: without rotation, a refresh does not move the end.
GRANT_RETRY = timedelta(days=1)
#: A time that lies ahead no further than this was written just now, by another host or query.
CLOCK_TOLERANCE = timedelta(seconds=10)


class Status(models.TextChoices):
    """Whether an account has a grant that is known to be good."""

    CONNECTED = "connected", _("connected")
    RECONNECT_REQUIRED = "reconnect_required", _("needs reconnecting")
    DISCONNECTED = "disconnected", _("disconnected")


class Reason(models.TextChoices):
    """Why a grant has ended."""

    USER = "user", _("by the user")
    ADMIN = "admin", _("by an administrator")
    REVOKED_AT_ILERT = "revoked_at_ilert", _("access was revoked at ilert")
    EXPIRED = "expired", _("access has expired")
    DELETED = "deleted", _("the account was deleted")
    INCIDENT = "incident", _("after an incident")


class ConnectedAccountQuerySet(models.QuerySet["ConnectedAccount"]):
    """Each method narrows the accounts down, and they can be chained."""

    def connected(self) -> Self:
        return self.filter(status=Status.CONNECTED)

    def for_user(self, user: Any) -> Self:
        return self.filter(user=user)

    def expiring(self, within: timedelta) -> Self:
        """The connected accounts that are due for a refresh.

        Those are the ones whose access token expires within the time or at an unknown time, and
        those whose grant ends within a week and that were not refreshed for a day.
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

    def of_client(self, name: str) -> Self:
        """Accounts whose grants were given to this client: ``"default"``, or a name in
        ``ILERT_OAUTH_CLIENTS``. Raises ``ImproperlyConfigured`` where there is none.
        """
        client = conf.client(name)
        return self.filter(api_url=client.api_url, client_id=client.client_id)

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
            matches = models.Q()
            for name in scopes.covering(scope):
                matches |= models.Q(_held__contains=f" {name} ")
            accounts = accounts.filter(matches)
        return accounts


def configured_client_id() -> str:
    return getattr(settings, "ILERT_OAUTH_CLIENT_ID", "")


#: What flows write. ``save()`` writes other columns as always, these only where they were set.
GRANT_COLUMNS = [
    "client_id",
    "granted_scope",
    "access_token_ciphertext",
    "refresh_token_ciphertext",
    "access_token_expires_at",
    "refresh_token_expires_at",
    "status",
    "reason",
    "status_changed_at",
    "connected_at",
    "refreshed_at",
    "last_error",
    "last_error_at",
    "lease_id",
    "lease_ends_ms",
]


#: As they were read; of the user only to tell when the account is handed over.
REMEMBERED = [*GRANT_COLUMNS, "user_id"]


class ConnectedAccount(models.Model):
    """One person in one tenant of one ilert, connected by one user of this site.

    ``access_token`` and ``refresh_token`` encrypt when set and decrypt when read. ``save()`` of an
    account that is stored already leaves out the tokens, expiries, status and lease that this
    object has not set itself, so an object read before a refresh brings nothing back.
    """

    Status = Status
    Reason = Reason

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
    api_url = ExactCharField(_("ilert API"), max_length=200)
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
    status = models.CharField(_("status"), max_length=20, choices=Status, default=Status.CONNECTED)
    reason = models.CharField(_("reason"), max_length=20, choices=Reason, blank=True)
    status_changed_at = models.DateTimeField(_("status changed"), default=timezone.now)
    connected_at = models.DateTimeField(_("connected"), default=timezone.now)
    refreshed_at = models.DateTimeField(_("last refreshed"), null=True, blank=True)
    last_error = models.CharField(_("last error"), max_length=40, blank=True)
    last_error_at = models.DateTimeField(_("last error at"), null=True, blank=True)
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
        ]
        permissions = [
            ("refresh_connectedaccount", _("Can refresh ilert accounts")),
            ("check_connectedaccount", _("Can check ilert accounts")),
            ("disconnect_connectedaccount", _("Can disconnect ilert accounts")),
        ]

    def __str__(self) -> str:
        return f"{self.username} @ {self.tenant_id}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        is_plain = not args and kwargs.get("using", self._state.db) == self._state.db
        if is_plain and not kwargs.keys() - {"using"} and self.pk and not self._state.adding:
            kwargs["update_fields"] = self._columns_to_save()
        super().save(*args, **kwargs)
        names = kwargs.get("update_fields")
        self._remember_stored(REMEMBERED if names is None else names)

    @classmethod
    def from_db(
        cls, db: str | None, field_names: Collection[str], values: Collection[Any], **kwargs: Any
    ) -> Self:
        account = super().from_db(db, field_names, values, **kwargs)
        account._remember_stored(REMEMBERED)
        return account

    def refresh_from_db(self, *args: Any, **kwargs: Any) -> None:
        super().refresh_from_db(*args, **kwargs)
        named = kwargs.get("fields") or (args[1] if len(args) > 1 else None)
        self._remember_stored(REMEMBERED if named is None else named)

    def take_stored(self, values: Mapping[str, Any]) -> None:
        """Takes over columns as they are stored: ``save()`` will not write them again."""
        for name, value in values.items():
            setattr(self, name, value)
        self._remember_stored(values)

    def _columns_to_save(self) -> list[str]:
        stored: dict[str, Any] = vars(self).get("_stored_values", {})
        deferred = self.get_deferred_fields()
        return [
            field.name
            for field in self._meta.concrete_fields
            if field.attname not in deferred
            and not (field.primary_key or field.name == "uuid")
            and not (field.name in stored and stored[field.name] == vars(self)[field.name])
        ]

    def _remember_stored(self, names: Iterable[str]) -> None:
        known: dict[str, Any] = vars(self).get("_stored_values", {})
        columns = {"user_id" if name == "user" else name for name in names}
        read = {
            name: vars(self)[name] for name in REMEMBERED if name in columns & vars(self).keys()
        }
        self._stored_values = known | read

    @property
    def has_new_user(self) -> bool:
        """Whether it belongs to another user than when it was read."""
        stored: dict[str, Any] = vars(self).get("_stored_values", {})
        return bool(stored.get("user_id", self.user_id) != self.user_id)

    @property
    def access_token(self) -> Secret:
        """The token, empty without one. Raises ``TokenDecryptionError``."""
        return _decrypted(self.access_token_ciphertext, self.place_of("access_token"))

    @access_token.setter
    def access_token(self, token: Secret | str) -> None:
        self.access_token_ciphertext = _encrypted(token, self.place_of("access_token"))

    @property
    def refresh_token(self) -> Secret:
        """The token, empty without one. Raises ``TokenDecryptionError``."""
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
        """Whether the configured keys open what is stored."""
        return all(
            crypto.key_number(ciphertext, self.place_of(name))
            for name in ("access_token", "refresh_token")
            if (ciphertext := getattr(self, f"{name}_ciphertext"))
        )

    @property
    def events(self) -> models.QuerySet[AccountEvent]:
        """The latest first."""
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
        """Whether all of these were granted, by ilert's hierarchy of levels."""
        return scopes.covers(self.granted_scope, scopes.union(*required))

    def is_fresh(self, margin: timedelta = timedelta(0), *, now: datetime | None = None) -> bool:
        """Connected, with an access token that is known to be good for longer than the margin.

        ``now`` is this host's time unless given.
        """
        expires_at = self.access_token_expires_at
        return (
            self.status == Status.CONNECTED
            and self.access_token_ciphertext != ""
            and expires_at is not None
            and expires_at - margin > (now or timezone.now())
        )

    def was_refreshed_within(self, interval: timedelta, *, now: datetime | None = None) -> bool:
        """Whether the last refresh is less than the interval ago; one that lies ahead is not."""
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
            self.refresh_token = tokens.refresh_token
            self.refresh_token_expires_at = _later(now, tokens.refresh_token_expires_in)
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


class PendingRevocation(models.Model):
    """A grant that has ended here and that ilert has not confirmed yet.

    Written in the transaction that ends the grant, deleted once ilert has confirmed the revocation.
    """

    account_uuid = models.UUIDField(_("account"), editable=False)
    client_id = models.CharField(_("client ID"), max_length=200)
    api_url = models.CharField(_("ilert API"), max_length=200)
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
    """A change of an account, by its ``uuid``: what has happened outlives the account."""

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
