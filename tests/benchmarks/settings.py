"""A site with the app and its peers, each set to refresh at the endpoint named ``ENDPOINT_URL``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import environ

env = environ.Env()

ENDPOINT = env("ENDPOINT_URL", default="http://127.0.0.1")
TOKEN_URL = f"{ENDPOINT}/api/developers/oauth2/token"

SECRET_KEY = "benchmarks"
ROOT_URLCONF = "tests.urls"
STATIC_URL = "/static/"
USE_TZ = True
DATABASES = {"default": env.db_url("DATABASE_URL", "sqlite:///unused.sqlite3")}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    folder = tempfile.TemporaryDirectory(prefix="ilert-benchmarks-")
    DATABASES["default"]["TEST"] = {"NAME": str(Path(folder.name, "benchmarks.sqlite3"))}
    DATABASES["default"]["OPTIONS"] = {
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        "transaction_mode": "IMMEDIATE",
    }

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django_ilert_oauth",
    "esi",
    "social_django",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
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
# What the peers log about each token is left out of their times.
LOGGING = {"version": 1, "root": {"level": "CRITICAL"}, "loggers": {"esi": {"level": "CRITICAL"}}}

ILERT_OAUTH_CLIENT_ID = ESI_SSO_CLIENT_ID = SOCIAL_AUTH_KEYCLOAK_KEY = "the-client"
ILERT_OAUTH_CLIENT_SECRET = ESI_SSO_CLIENT_SECRET = SOCIAL_AUTH_KEYCLOAK_SECRET = "the-secret"
ILERT_OAUTH_ENCRYPTION_KEYS = ["h3SWrXqcbGMlQIdYjnM9DKOXjcdnYWbu9SLrW_4XhNQ="]
ILERT_OAUTH_API_URL = ENDPOINT

ESI_SSO_CALLBACK_URL = f"{ENDPOINT}/callback"
ESI_CODE_EXCHANGE_URL = TOKEN_URL
ESI_SSO_MAX_RETRIES = 1
ESI_USER_CONTACT_EMAIL = "benchmarks@example.com"

# The one of its OAuth2 backends whose URL is a setting.
AUTHENTICATION_BACKENDS = ["social_core.backends.keycloak.KeycloakOAuth2"]
SOCIAL_AUTH_KEYCLOAK_ACCESS_TOKEN_URL = TOKEN_URL
