"""A site with nothing but the app; ``DATABASE_URL`` names another database than SQLite."""

from __future__ import annotations

import atexit
import tempfile
from importlib.util import find_spec
from pathlib import Path

import environ

env = environ.Env()

BASE_DIR = Path(__file__).parent

SECRET_KEY = "tests"
ALLOWED_HOSTS = ["testserver"]
ROOT_URLCONF = "tests.urls"
TIME_ZONE = "UTC"
USE_TZ = env.bool("USE_TZ", True)
STATIC_URL = "static/"
DATABASES = {"default": env.db_url("DATABASE_URL", "sqlite:///unused.sqlite3")}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # A file, since threads and processes of the tests share it; gone with the run, so never synced.
    folder = tempfile.TemporaryDirectory(prefix="ilert-tests-")
    atexit.register(folder.cleanup)
    DATABASES["default"]["TEST"] = {"NAME": str(Path(folder.name, "test.sqlite3"))}
    DATABASES["default"]["OPTIONS"] = {
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF",
        "timeout": 20,
    }
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
LOGIN_URL = "login"
AUTH_USER_MODEL = env("AUTH_USER_MODEL", default="auth.User")
# Without it, Django 6.1 warns of each e-mail.
MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_ilert_oauth",
    "tests.support.uuid_users",
]

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
if find_spec("django_tasks_db"):
    INSTALLED_APPS.append("django_tasks_db")
if env.bool("LOGIN_REQUIRED_MIDDLEWARE", False):
    MIDDLEWARE.append("django.contrib.auth.middleware.LoginRequiredMiddleware")

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

ILERT_OAUTH_CLIENT_ID = "the-client"
ILERT_OAUTH_CLIENT_SECRET = "the-client-secret"
ILERT_OAUTH_ENCRYPTION_KEYS = ["h3SWrXqcbGMlQIdYjnM9DKOXjcdnYWbu9SLrW_4XhNQ="]
