from __future__ import annotations

from .environment import DEMO_FOLDER, KEYS_FILE, PROJECT, env, sqlite_url, standin_environment

# Made by run.py at its first run.
env.read_env(DEMO_FOLDER / KEYS_FILE)
if not env.str("ILERT_CLIENT_ID", ""):
    env.ENVIRON.update(standin_environment("http://127.0.0.1:8001"))

SECRET_KEY = env.str("SECRET_KEY", "")
# Off: Django's debug pages would show what the frames hold, tokens among it.
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost", *env.list("ALLOWED_HOSTS", default=[])]
# On behind a proxy that speaks https to every visitor, and says so in X-Forwarded-Proto.
HTTPS_ONLY = env.bool("HTTPS_ONLY", False)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS_ONLY else None
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS_ONLY
SECURE_HSTS_SECONDS = 365 * 24 * 60 * 60 if HTTPS_ONLY else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS_ONLY
ROOT_URLCONF = "example_site.urls"
WSGI_APPLICATION = "example_site.wsgi.application"
LANGUAGES = [("en", "English"), ("de", "Deutsch")]
TIME_ZONE = "UTC"
STATIC_URL = "static/"
DATABASES = {"default": env.db_url("DATABASE_URL", sqlite_url(DEMO_FOLDER))}
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "home"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_ilert_oauth",
    "example_site",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        # First, so that the site's ilert_oauth/base.html takes the place of the app's.
        "DIRS": [PROJECT / "example_site" / "templates"],
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

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"without_query": {"()": "example_site.log.WithoutQuery"}},
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        "django": {"level": "INFO"},
        "django.server": {"filters": ["without_query"], "propagate": True},
    },
}

ILERT_OAUTH_CLIENT_ID = env.str("ILERT_CLIENT_ID")
ILERT_OAUTH_CLIENT_SECRET = env.str("ILERT_CLIENT_SECRET", "")
ILERT_OAUTH_ENCRYPTION_KEYS = env.list("ILERT_OAUTH_ENCRYPTION_KEYS", default=[])
# The page that creates an alert source asks for source:w when it is needed.
ILERT_OAUTH_SCOPES = ["profile", "source"]
ILERT_OAUTH_REDIRECT_URI = env.str("ILERT_OAUTH_REDIRECT_URI", "") or None
ILERT_OAUTH_APP_URL = env.str("ILERT_OAUTH_APP_URL", "https://app.ilert.com")
ILERT_OAUTH_API_URL = env.str("ILERT_OAUTH_API_URL", "https://api.ilert.com")
ILERT_OAUTH_TENANT_URL = env.str("ILERT_OAUTH_TENANT_URL", "https://{tenant}.ilert.com")
