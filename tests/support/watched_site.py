"""One run with secrets of its own, and every place that they could turn up in."""

from __future__ import annotations

import base64
import json
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, urlsplit

from cryptography.fernet import Fernet
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.db import connection
from django.http import HttpRequest
from django.test import Client, RequestFactory
from django.utils.log import AdminEmailHandler

from django_ilert_oauth.exceptions import TokenDecryptionError
from django_ilert_oauth.models import ConnectedAccount
from ilert_standin import StandIn
from ilert_standin.browser import authorize
from tests.conftest import AccountFactory
from tests.support.guarded_pages import look_at_guarded_pages
from tests.support.secret_search import Hunt

CONNECT = "/ilert/connect/"
ADMIN = "/admin/ilert_oauth/connectedaccount/"
#: Read from what was sent: to the authorize page, to the callback and to ilert's endpoints.
SECRET_PARAMETERS = ("state", "code", "code_verifier", "client_secret", "refresh_token", "token")


class World:
    def __init__(
        self, ilert: StandIn, user: User, make_account: AccountFactory, settings: Any
    ) -> None:
        self.ilert, self.user, self.settings = ilert, user, settings
        self.hunt = Hunt()
        self.make_account = make_account
        self.browser = _client(user)
        self.root = _client(User.objects.create_superuser("root"))
        self.callback_url = ""
        self._is_walking = False
        self._take_secrets_of_its_own()

    def new_key(self) -> str:
        key = Fernet.generate_key().decode()
        self.hunt.learn("encryption key", key)
        return key

    def begin(self, **form: Any) -> str:
        """Up to the callback's address, which is not opened yet."""
        leave: Any = self.browser.post(CONNECT, form)
        self._is_walking = True
        callback = authorize(leave["Location"])
        self._is_walking = False
        self.learn_parameters(leave["Location"])
        self.learn_parameters(callback)
        return callback

    def attempt(self, act: Callable[[], object]) -> None:
        try:
            self.hunt.look_at_object("result", act())
        except BaseException as error:
            self.hunt.look_at_error("error", error)

    def request(self, url: str) -> HttpRequest:
        """What a view of the site would hand to a flow."""
        request = RequestFactory().get(url)
        request.user = self.user
        request.session = SessionStore(self.browser.cookies["sessionid"].value)
        return request

    def visit(self, response: Any) -> None:
        """The way to ilert necessarily holds the state."""
        headers = dict(response.items())
        if urlsplit(headers.get("Location", "")).path.endswith("/authorize"):
            headers["Location"] = ""
        path = response.request["PATH_INFO"]
        self.hunt.look_at(f"headers of {path}", f"{headers} {response.cookies.output()}")
        self.hunt.look_at(f"page {path}", response.content)

    def run(self, name: str, *options: str) -> None:
        out, errors = StringIO(), StringIO()
        try:
            call_command(name, *options, stdout=out, stderr=errors)
        except CommandError as error:
            self.hunt.look_at_error("error", error)
        finally:
            self.hunt.look_at(f"output of {name}", out.getvalue() + errors.getvalue())

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Logs and e-mails to administrators from the root logger's point of view."""
        root, requests = logging.getLogger(), logging.getLogger("django.request")
        handler, mailer = _Listener(self._hear), _Mailer(self.hunt)
        level, connection.force_debug_cursor = root.level, True
        root.addHandler(handler)
        requests.addHandler(mailer)
        root.setLevel("DEBUG")
        try:
            with mock.patch.object(secrets, "token_urlsafe", self._make_secret):
                yield
        finally:
            root.setLevel(level)
            root.removeHandler(handler)
            requests.removeHandler(mailer)
            connection.force_debug_cursor = False

    def leaks(self) -> list[str]:
        self.learn()
        return self.hunt.leaks()

    def learn(self) -> None:
        for request in self.ilert.requests:
            for form in (request.form, request.query):
                self._learn_all(form)
            self.hunt.learn("bearer", request.headers.get("Authorization", "")[len("Bearer ") :])
        for name in ("_access_tokens", "_refresh_tokens"):
            for token in vars(vars(self.ilert)["_grants"])[name]:
                self.hunt.learn(name.strip("_"), token)
        for account in ConnectedAccount.objects.all():
            with suppress(TokenDecryptionError):
                self.hunt.learn("stored access token", account.access_token.reveal())
                self.hunt.learn("stored refresh token", account.refresh_token.reveal())

    def learn_parameters(self, url: str) -> None:
        self._learn_all(dict(parse_qsl(urlsplit(url).query)))

    def sweep(self, *, every_page: bool = False) -> None:
        """Everything that is left of the run, once the failure is over."""
        self._look_at_pages()
        if every_page:
            self._look_at_other_pages()
        self._look_at_database()
        self._look_at_sessions()
        for account in ConnectedAccount.objects.all():
            self.hunt.look_at_object("account", account)

    def _take_secrets_of_its_own(self) -> None:
        secret = Fernet.generate_key().decode()
        self.hunt.learn("client secret", secret)
        self.ilert.options.client_secret = secret
        self.settings.ILERT_OAUTH_CLIENT_SECRET = secret
        self.settings.ILERT_OAUTH_ENCRYPTION_KEYS = [self.new_key()]

    def _make_secret(self, size: int) -> str:
        made = base64.urlsafe_b64encode(secrets.token_bytes(size)).decode().rstrip("=")
        self.hunt.learn("state or verifier", made)
        return made

    def _learn_all(self, parameters: dict[str, str]) -> None:
        for name in SECRET_PARAMETERS:
            self.hunt.learn(name, parameters.get(name, ""))

    def _hear(self, record: logging.LogRecord) -> None:
        """At once, as an error tracker would: later the test client adds the request."""
        if not self._is_walking:
            self.hunt.look_at_record(record)

    def _look_at_pages(self) -> None:
        """Those that show what came of the run."""
        self.visit(self.browser.get("/ilert/"))
        for pk in self._pks():
            self.visit(self.root.get(f"{ADMIN}{pk}/change/"))

    def _look_at_other_pages(self) -> None:
        for path in [ADMIN, f"{ADMIN}?q=grace"]:
            self.visit(self.root.get(path))
        for pk in self._pks():
            self.visit(self.browser.get(CONNECT, {"account": pk}))
            self.visit(self.browser.get(f"/ilert/{pk}/disconnect/"))
            for name in ("history", "delete"):
                self.visit(self.root.get(f"{ADMIN}{pk}/{name}/"))
        chosen = {"action": "delete_selected", "_selected_action": self._pks()}
        self.visit(self.root.post(ADMIN, chosen))
        out = StringIO()
        call_command("dumpdata", stdout=out)
        self.hunt.look_at("dumpdata", out.getvalue())
        look_at_guarded_pages(self)

    def _pks(self) -> list[int]:
        return list(ConnectedAccount.objects.values_list("pk", flat=True))

    def _look_at_database(self) -> None:
        with connection.cursor() as cursor:
            for table in connection.introspection.table_names(cursor):
                cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")  # noqa: S608
                self.hunt.look_at(f"table {table}", cursor.fetchall())

    def _look_at_sessions(self) -> None:
        for session in Session.objects.all():
            self.hunt.look_at("session", json.dumps(session.get_decoded()))


class _Listener(logging.Handler):
    def __init__(self, hear: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        self._hear(record)


class _Mailer(AdminEmailHandler):
    """The e-mails to the administrators, each with the technical page."""

    def __init__(self, hunt: Hunt) -> None:
        super().__init__(include_html=True)
        self._hunt = hunt

    def send_mail(self, subject: object, message: object, *args: Any, **options: Any) -> None:
        self._hunt.look_at("e-mail", f"{subject} {message}")
        self._hunt.look_at("e-mail page", options["html_message"])


def _client(user: User) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client
