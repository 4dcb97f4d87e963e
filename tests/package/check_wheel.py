"""Follows the tutorial with the wheel of the folder given, and connects an account.

The lines are run as they are printed, in a folder with nothing of this repository. Only the
addresses differ: ilert's are those of a stand-in, the site's has a free port.
"""

from __future__ import annotations

import re
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from demo_ports import HOST, choose_ports
from ilert_standin import StandIn, serve
from site_browser import SiteBrowser
from tests.package.shell import Shell
from tests.support import docs
from tests.support.user_journey import REFRESH, connect, disconnect, log_in, standin_for, walk

PACKAGE = "django_ilert_oauth"
#: Where the tutorial has the site and its callback.
SITE, CALLBACK = "http://127.0.0.1:8000", "/ilert/callback/"
SETTINGS, URLS = Path("mysite", "settings.py"), Path("mysite", "urls.py")
IN_SHELL = "python manage.py shell --command"
PASSWORD = secrets.token_urlsafe(12)
REPLIES = {
    "Username": "admin",
    "Email address": "admin@site.example",
    "Password:": PASSWORD,
    "Password (again):": PASSWORD,
}

#: Addresses of the stand-in. Django finds more in a new site.
LEFT_TO_BE_SET = {"ilert_oauth.W001"}

#: README's first example, for the one user of the site.
EXAMPLE = """
from types import SimpleNamespace

from django.contrib.auth.models import User

request = SimpleNamespace(user=User.objects.get())
"""

DEPLOYED = f"""
SECRET_KEY = "{secrets.token_urlsafe(64)}"
DEBUG = False
ALLOWED_HOSTS = ["site.example"]
CSRF_COOKIE_SECURE = SESSION_COOKIE_SECURE = True
MAILERS = {{"default": {{"BACKEND": "django.core.mail.backends.smtp.EmailBackend"}}}}
SECURE_HSTS_SECONDS = 31536000
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = SECURE_SSL_REDIRECT = True
ILERT_OAUTH_APP_URL = "https://app.ilert.com"
ILERT_OAUTH_API_URL = "https://api.ilert.com"
ILERT_OAUTH_TENANT_URL = "https://{{tenant}}.ilert.com"
ILERT_OAUTH_REDIRECT_URI = "https://site.example/ilert/callback/"
"""

PROBE = f"""
import sys
from importlib.metadata import version
from pathlib import Path

from django.template.loader import get_template
from django.urls import reverse

import {PACKAGE}

folder = Path({PACKAGE}.__file__).parent
assert folder.is_relative_to(sys.prefix), folder
assert version("{PACKAGE}") == {PACKAGE}.__version__
templates = folder / "templates"
for path in templates.rglob("*.html"):
    get_template(str(path.relative_to(templates)))
assert reverse("ilert_oauth:callback") == "{CALLBACK}"
"""

ALLAUTH_SETTINGS = """
INSTALLED_APPS += ["allauth", "allauth.account", "allauth.socialaccount"]
MIDDLEWARE += ["allauth.account.middleware.AccountMiddleware"]
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
ACCOUNT_EMAIL_VERIFICATION = "none"
LOGIN_URL = "account_login"
"""
TYPES = "'celery>=5.7,<6' 'django-stubs[compatible-mypy]>=6.1,<6.2' 'requests>=2.34'"
MYPY = """
[mypy]
strict = true
plugins = mypy_django_plugin.main

[mypy.plugins.django-stubs]
django_settings_module = mysite.settings
"""
TYPED_SITE = Path(__file__).parents[1] / "support/typed_site.py"

ALLAUTH_URLS = 'urlpatterns += [path("accounts/", include("allauth.urls"))]\n'


class Newcomer:
    def __init__(self, folder: Path, wheel: Path) -> None:
        constraint = folder / "constraint.txt"
        constraint.write_text(f"django-ilert-oauth @ {wheel.as_uri()}\n")
        self.shell = Shell(folder, PIP_CONSTRAINT=str(constraint))
        [self.port] = choose_ports({"--port": 0})
        self.site = SiteBrowser(f"http://{HOST}:{self.port}")
        self.key = ""
        self.has_called = False

    def follow_tutorial(self) -> None:
        assert f"{SITE}{CALLBACK}" in docs.literals()
        for step in docs.tutorial():
            match step:
                case docs.Addition(path, lines):
                    self.add(Path(path), lines)
                case docs.Command("python manage.py runserver"):
                    self.connect_and_call()
                case docs.Command("python manage.py createsuperuser" as line):
                    self.shell.run_dialog(line, REPLIES)
                case docs.Command("python manage.py check --deploy" as line):
                    said = self.shell.run(line, may_fail=True)
                    assert set(re.findall(r"ilert_oauth\.\w+", said)) == LEFT_TO_BE_SET
                case docs.Command(line):
                    printed = self.shell.run(line.replace("the key that was printed", self.key))
                    self.key = self.key or (printed.strip() if "generate_key" in line else "")
        assert self.has_called, "the tutorial does not start the site"

    def connect_and_call(self) -> None:
        with self.serving() as standin:
            log_in(self.site, "/ilert/", username="admin", password=PASSWORD)
            connect(self.site, standin)
            [example, *_others] = docs.blocks("python", docs.README)
            said = self.shell.run(f"{IN_SHELL} {quote(EXAMPLE + example)}")
            assert "Website checks\nServer room\n" in said
            self.refresh()
            disconnect(self.site, standin)
        self.has_called = True

    def add_allauth(self) -> None:
        """Which has login pages and accounts of its own."""
        self.shell.run("pip install --quiet 'django-allauth[socialaccount]'")
        self.add(SETTINGS, ALLAUTH_SETTINGS)
        self.add(URLS, ALLAUTH_URLS)
        self.shell.run("python manage.py migrate --verbosity 0")
        with self.serving() as standin:
            self.site.session.cookies.clear()
            log_in(self.site, "/ilert/", login="admin", password=PASSWORD)
            walk(self.site, standin, self.refresh)

    def deploy(self) -> None:
        self.add(SETTINGS, DEPLOYED)
        self.shell.run("python manage.py makemigrations --check --dry-run ilert_oauth")
        self.shell.run("python manage.py check --deploy --fail-level WARNING")
        self.shell.run(f"{IN_SHELL} {quote(PROBE)}")

    def check_types(self) -> None:
        """Of a site's code against the wheel, which says by ``py.typed`` that it has them."""
        self.shell.run(f"pip install --quiet {TYPES}")
        self.add(Path("mypy.ini"), MYPY)
        self.add(Path("typed_site.py"), TYPED_SITE.read_text())
        self.shell.run("mypy typed_site.py")

    @contextmanager
    def serving(self) -> Iterator[StandIn]:
        """The tutorial's server at a free port, and a stand-in that knows what was exported."""
        environment = self.shell.environment
        standin = standin_for(
            f"http://{HOST}:{self.port}",
            client_id=environment["ILERT_CLIENT_ID"],
            client_secret=environment["ILERT_CLIENT_SECRET"],
        )
        line = f"python manage.py runserver {self.port}"
        with serve(standin) as url:
            self.add(SETTINGS, f'ILERT_OAUTH_APP_URL = ILERT_OAUTH_API_URL = "{url}"\n')
            self.add(SETTINGS, f'ILERT_OAUTH_TENANT_URL = "{url}/t/{{tenant}}"\n')
            with self.shell.serving(line, self.port):
                yield standin

    def refresh(self) -> None:
        self.shell.run(f"python manage.py {' '.join(REFRESH)}")

    def add(self, path: Path, lines: str) -> None:
        with (self.shell.folder / path).open("a") as file:
            file.write(f"\n{lines}\n")


def main(dist: Path) -> None:
    [wheel] = dist.glob("*.whl")
    with tempfile.TemporaryDirectory() as folder:
        newcomer = Newcomer(Path(folder), wheel)
        newcomer.follow_tutorial()
        newcomer.add_allauth()
        newcomer.deploy()
        newcomer.check_types()
    print(f"{wheel.name}: the tutorial's steps lead to a connected account")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
