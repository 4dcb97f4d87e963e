"""A site whose tests have no credentials and no key."""

from tests.settings import *  # noqa: F403

ROOT_URLCONF = "tests.support.kit_site.urls"
ILERT_OAUTH_CLIENT_ID = ILERT_OAUTH_CLIENT_SECRET = ""
del ILERT_OAUTH_ENCRYPTION_KEYS  # noqa: F821
