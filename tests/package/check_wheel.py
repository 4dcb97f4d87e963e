"""Installs the wheel of the folder given where nothing else of this repository is, and uses it."""

import base64
import os
import secrets
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from zipfile import ZipFile

PACKAGE = "django_ilert_oauth"
ROOT = Path(__file__).resolve().parents[2]
CACHES = {"__pycache__", ".mypy_cache", ".ruff_cache"}

SETTINGS = f"""
SECRET_KEY = "{secrets.token_urlsafe(64)}"
DEBUG = False
ALLOWED_HOSTS = ["site.example"]
INSTALLED_APPS += ["{PACKAGE}"]
CSRF_COOKIE_SECURE = SESSION_COOKIE_SECURE = True
MAILERS = {{"default": {{"BACKEND": "django.core.mail.backends.smtp.EmailBackend"}}}}
SECURE_HSTS_SECONDS = 31536000
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = SECURE_SSL_REDIRECT = True
ILERT_OAUTH_CLIENT_ID = "client"
ILERT_OAUTH_CLIENT_SECRET = "secret"
ILERT_OAUTH_ENCRYPTION_KEYS = ["{base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}"]
ILERT_OAUTH_REDIRECT_URI = "https://site.example/ilert/callback/"
"""

URLS = f"""
from django.urls import include
urlpatterns.append(path("ilert/", include("{PACKAGE}.urls")))
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
assert reverse("ilert_oauth:callback") == "/ilert/callback/"
"""


def check_contents(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    strangers = {name for name in names if not name.startswith((f"{PACKAGE}/", f"{PACKAGE}-"))}
    assert not strangers, f"in the wheel, but not of the package: {sorted(strangers)}"
    source = {
        str(path.relative_to(ROOT))
        for path in (ROOT / PACKAGE).rglob("*")
        if path.is_file() and not CACHES & set(path.parts)
    }
    assert source <= names, f"missing from the wheel: {sorted(source - names)}"
    assert f"{PACKAGE}/py.typed" in names
    assert f"{PACKAGE}/templates/ilert_oauth/base.html" in names


def check_site(wheel: Path, folder: Path) -> None:
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DJANGO_", "ILERT_", "PYTHON"))
    }

    def python(*arguments: str | Path) -> None:
        print("$ python", *(str(argument).strip() for argument in arguments), flush=True)
        command = [folder / "venv" / "bin" / "python", *arguments]
        subprocess.run(command, cwd=folder, env=environ, check=True)

    venv.create(folder / "venv", with_pip=True)
    python("-m", "pip", "install", "--quiet", wheel)
    python("-m", "django", "startproject", "newsite", ".")
    for module, addition in (("settings", SETTINGS), ("urls", URLS)):
        with (folder / "newsite" / f"{module}.py").open("a") as file:
            file.write(addition)
    manage = ("-W", "error", "manage.py")
    python(*manage, "migrate")
    python(*manage, "makemigrations", "--check", "--dry-run", "ilert_oauth")
    python(*manage, "check", "--deploy", "--fail-level", "WARNING")
    python(*manage, "shell", "--command", PROBE)


if __name__ == "__main__":
    [wheel] = Path(sys.argv[1]).resolve().glob("*.whl")
    check_contents(wheel)
    with tempfile.TemporaryDirectory() as folder:
        check_site(wheel, Path(folder))
    print(f"{wheel.name}: works where nothing else of the repository is")
