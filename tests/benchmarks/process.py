"""One part over one database, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from typing import TypeVar

import django
from django.db import connection

from .sizes import Sizes
from .tables import Table

Result = TypeVar("Result")

#: Name and version of a database, by Django's name for its kind.
VERSIONS = {
    "sqlite": ("SQLite", "SELECT sqlite_version()"),
    "postgresql": ("PostgreSQL", "SHOW server_version"),
}


def measured(part: str, sizes: Sizes, url: str, database_url: str) -> list[Table]:
    """The tables of the part; ``part`` names a module."""
    return _separately(partial(_measure, part, sizes, url, database_url))


def database_version(database_url: str) -> str:
    return _separately(partial(_version, database_url))


def _separately(call: Callable[[], Result]) -> Result:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call).result()


def _measure(part: str, sizes: Sizes, url: str, database_url: str) -> list[Table]:
    with _site(url, database_url):
        module = import_module(f"tests.benchmarks.{part}")  # needs Django to be set up
        tables: list[Table] = module.measure(sizes, url, VERSIONS[connection.vendor][0])
        return tables


def _version(database_url: str) -> str:
    with _site("http://127.0.0.1", database_url), connection.cursor() as cursor:
        name, query = VERSIONS[connection.vendor]
        cursor.execute(query)
        return f"{name} {cursor.fetchone()[0].split()[0]}"


@contextmanager
def _site(url: str, database_url: str) -> Iterator[None]:
    """Django, set up, with a database that is made for this and dropped."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.benchmarks.settings"
    os.environ["DATABASE_URL"], os.environ["ENDPOINT_URL"] = database_url, url
    django.setup()
    name = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        yield
    finally:
        connection.creation.destroy_test_db(name, verbosity=0)
