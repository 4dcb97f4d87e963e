"""A site that reads from a replica, which has not heard of the last refresh yet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.settings import *  # noqa: F403

FOLDER = Path(os.environ["REPLICA_FOLDER"])

DATABASES = {
    alias: {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": FOLDER / f"{alias}.sqlite3",
        "OPTIONS": {"init_command": "PRAGMA synchronous=OFF"},
    }
    for alias in ("default", "replica")
}
DATABASE_ROUTERS = ["tests.support.replica_settings.ReadsFromReplica"]

ILERT_OAUTH_API_URL = os.environ["REPLICA_ILERT"]


class ReadsFromReplica:
    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "replica"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"

    def allow_relation(self, *objects: Any, **hints: Any) -> bool:
        return True
