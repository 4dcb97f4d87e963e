"""Where the example's configuration comes from: the environment, then the ``.env`` files."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import environ

from ilert_standin import Options

PROJECT = Path(__file__).resolve().parents[1]
DEMO_FOLDER = PROJECT / ".demo"
KEYS_FILE = "keys.env"

env = environ.Env()
env.read_env(PROJECT.parent / ".env")
env.read_env(PROJECT / ".env")


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{quote(str(folder / 'db.sqlite3'))}"


def standin_environment(url: str) -> dict[str, str]:
    """Leads the site to a stand-in for ilert, whatever else is configured."""
    defaults = Options()
    return {
        "ILERT_CLIENT_ID": defaults.client_id,
        "ILERT_CLIENT_SECRET": defaults.client_secret,
        "ILERT_OAUTH_APP_URL": url,
        "ILERT_OAUTH_API_URL": url,
        "ILERT_OAUTH_TENANT_URL": f"{url}/t/{{tenant}}",
        "ILERT_OAUTH_REDIRECT_URI": "",
    }
