"""A user goes all the way on sites that are set up otherwise."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import pytest
from django.conf.urls.i18n import i18n_patterns
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.urls import include, path
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from ilert_standin import StandIn, serve
from site_browser import Page, SiteBrowser
from tests.support.user_journey import REFRESH, log_in, walk

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ROOT = Path(__file__).parents[1]
LOG_IN = path("login/", LoginView.as_view(template_name="login.html"), name="login")
PAGES = include("django_ilert_oauth.urls")

Walk = Callable[..., Page]


@pytest.fixture
def walk_through(transactional_db: None, settings: Any, ilert: StandIn) -> Walk:
    """Logs in, connects, refreshes by the command and disconnects; the accounts page in between."""
    settings.ALLOWED_HOSTS = ["127.0.0.1"]
    User.objects.create_user("site-user", password="site-password")

    def all_the_way(
        pages: str = "/ilert/",
        *,
        registered: str = "",
        wrapped: Callable[[WSGIApplication], WSGIApplication] = lambda app: app,
    ) -> Page:
        with serve(wrapped(WSGIHandler())) as site_url:
            callback = urljoin(site_url, f"{registered or pages}callback/")
            ilert.options.redirect_uris = [callback]
            settings.ILERT_OAUTH_REDIRECT_URI = callback if registered else None
            site = SiteBrowser(site_url)
            log_in(site, pages, username="site-user", password="site-password")
            return walk(site, ilert, refresh, pages)

    return all_the_way


def refresh() -> None:
    call_command(*REFRESH, verbosity=0, stdout=StringIO())


def urls(*patterns: Any) -> ModuleType:
    module = ModuleType("urls_of_another_site")
    vars(module)["urlpatterns"] = list(patterns)
    return module


# Where the pages are


@pytest.mark.parametrize("mount", ["", "a/path/of/some/depth/"])
def test_the_pages_may_be_at_any_path(walk_through: Walk, settings: Any, mount: str) -> None:
    settings.ROOT_URLCONF = urls(LOG_IN, path(mount, PAGES))
    walk_through(f"/{mount}")


@pytest.fixture
def in_languages(settings: Any) -> None:
    settings.LANGUAGES = [("en", "English"), ("de", "German")]
    settings.ROOT_URLCONF = urls(LOG_IN, *i18n_patterns(path("ilert/", PAGES)))
    at = settings.MIDDLEWARE.index("django.middleware.common.CommonMiddleware")
    locale = "django.middleware.locale.LocaleMiddleware"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE[:at], locale, *settings.MIDDLEWARE[at:]]


@pytest.mark.usefixtures("in_languages")
def test_the_pages_may_be_below_a_language(walk_through: Walk) -> None:
    walk_through("/en/ilert/")


@pytest.mark.usefixtures("in_languages")
def test_one_registered_address_serves_every_language(walk_through: Walk) -> None:
    page = walk_through("/de/ilert/", registered="/en/ilert/")
    assert '<html lang="de"' in page.html


def below_intranet(app: WSGIApplication) -> WSGIApplication:
    return DispatcherMiddleware(not_found, {"/intranet": app})


def not_found(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("404 Not Found", [])
    return []


def test_the_server_may_name_a_script_prefix(walk_through: Walk) -> None:
    walk_through("/intranet/ilert/", wrapped=below_intranet)


def without_a_word(app: WSGIApplication) -> WSGIApplication:
    """A proxy that takes the prefix away."""

    def proxy(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return app(environ | {"SCRIPT_NAME": ""}, start_response)

    return below_intranet(proxy)


def test_the_settings_may_name_a_script_prefix(walk_through: Walk, settings: Any) -> None:
    settings.FORCE_SCRIPT_NAME = "/intranet"
    walk_through("/intranet/ilert/", wrapped=without_a_word)


# Where the sessions are


@pytest.mark.parametrize("engine", ["cache", "file", "signed_cookies"])
def test_sessions_may_be_kept_anywhere(
    walk_through: Walk, settings: Any, tmp_path: Path, engine: str
) -> None:
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    walk_through()


# Where the static files are


def test_pages_name_the_style_sheet_as_the_manifest_does(
    walk_through: Walk, settings: Any, tmp_path: Path
) -> None:
    settings.STATIC_ROOT = str(tmp_path)
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"}
    }
    call_command("collectstatic", verbosity=0)
    page = walk_through()
    [sheet] = re.findall(r'href="/static/(ilert_oauth/style\.[0-9a-f]{12}\.css)"', page.html)
    assert (tmp_path / sheet).exists()


OTHER_SETTINGS = """
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
DATABASES["people"] = DATABASES["default"] | {"NAME": FOLDER / "people.sqlite3"}
DATABASE_ROUTERS = ["other_settings.Router"]


class Router:
    def db_for_read(self, model, **hints):
        return "people"

    db_for_write = db_for_read

    def allow_migrate(self, db, app_label, **hints):
        return db == "people"
"""


def test_a_site_may_have_its_own_kind_of_key_and_keep_all_in_a_second_database(
    tmp_path: Path,
) -> None:
    described = describe_site(tmp_path, OTHER_SETTINGS)
    assert described["default_auto_field"] == "django.db.models.AutoField"
    assert described["migrations_missing"] is False
    assert described["tables"]["default"] == ["django_migrations"]
    people = {"auth_user", "ilert_oauth_connectedaccount"}
    assert people <= set(described["tables"]["people"])


WITHOUT_ADMIN = """
import sys
sys.modules["django.contrib.admin"] = None  # an error for whatever imports it
INSTALLED_APPS = [  # the last brings the admin along
    app for app in INSTALLED_APPS if app not in ("django.contrib.admin", "django_tasks_db")
]
ROOT_URLCONF = "other_urls"
"""
OTHER_URLS = """
from django.contrib.auth.views import LoginView
from django.urls import include, path

urlpatterns = [
    path("login/", LoginView.as_view(template_name="login.html"), name="login"),
    path("ilert/", include("django_ilert_oauth.urls")),
]
"""


def test_a_site_may_have_no_admin(tmp_path: Path) -> None:
    (tmp_path / "other_urls.py").write_text(OTHER_URLS)
    described = describe_site(tmp_path, WITHOUT_ADMIN)
    assert "ilert_oauth_connectedaccount" in described["tables"]["default"]
    assert "django_admin_log" not in described["tables"]["default"]


def describe_site(folder: Path, more_settings: str) -> dict[str, Any]:
    """In a process of its own, which says what became of the site once a user has been there."""
    start = f"""
from pathlib import Path
from tests.settings import *
FOLDER = Path({str(folder)!r})
ALLOWED_HOSTS = ["127.0.0.1"]
DATABASES = {{
    "default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "default.sqlite3"}}
}}
"""
    (folder / "other_settings.py").write_text(start + more_settings)
    path = os.pathsep.join([str(ROOT), str(ROOT / "example_project"), str(folder)])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.support.programs.other_site"],
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "other_settings", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    described: dict[str, Any] = json.loads(done.stdout)
    return described
