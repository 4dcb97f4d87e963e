"""What the processes of the demo are configured with."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.fernet import Fernet

from demo_ports import HOST
from example_site.environment import KEYS_FILE, sqlite_url, standin_environment


def at_ilert(folder: Path) -> dict[str, str]:
    """The database and the keys of the folder, where nothing else is configured."""
    return _of_folder(folder) | _surroundings()


def at_standin(folder: Path, ilert_url: str) -> dict[str, str]:
    return at_ilert(folder) | _standin(ilert_url)


def sealed(folder: Path, ilert_url: str) -> dict[str, str]:
    """The database and the keys of the folder, whatever else is configured."""
    return _surroundings() | _of_folder(folder) | _standin(ilert_url)


def redirect_uri(site_url: str) -> str:
    return f"{site_url}/ilert/callback/"


def _surroundings() -> dict[str, str]:
    return os.environ | {"DJANGO_SETTINGS_MODULE": "example_site.settings"}


def _standin(ilert_url: str) -> dict[str, str]:
    return standin_environment(ilert_url) | {"no_proxy": HOST}


def _of_folder(folder: Path) -> dict[str, str]:
    return {"DATABASE_URL": sqlite_url(folder), **_keys(folder)}


def _keys(folder: Path) -> dict[str, str]:
    """Made at the first run."""
    path = folder / KEYS_FILE
    if not path.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        path.write_text("".join(f"{name}={value}\n" for name, value in _new_keys().items()))
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def _new_keys() -> dict[str, str]:
    return {
        "SECRET_KEY": secrets.token_urlsafe(50),
        "ILERT_OAUTH_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "DEMO_PASSWORD": secrets.token_urlsafe(12),
        "ADMIN_PASSWORD": secrets.token_urlsafe(12),
    }
