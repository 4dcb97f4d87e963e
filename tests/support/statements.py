"""What happens before statements of this thread's connection, or in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import DatabaseError, connection


@contextmanager
def before_statements(act: Callable[[], object], *words: str, times: int = 1) -> Iterator[None]:
    """Acts before so many of those that hold all of these words."""
    left = iter(range(times))

    def watch(execute: Any, sql: str, params: Any, *args: Any) -> Any:
        if all(word in f"{sql} {params}" for word in words) and next(left, None) is not None:
            act()
        return execute(sql, params, *args)

    with connection.execute_wrapper(watch):
        yield


def failing_statements(
    *words: str, error: type[BaseException] = DatabaseError, times: int = 10_000
) -> Any:
    """So many of those that hold all of these words fail."""

    def fail() -> None:
        raise error("the words of the database")

    return before_statements(fail, *words, times=times)
