"""What one refresh costs: time of a processor and queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connection

from . import contenders, endpoint
from .contenders import Contender
from .measuring import interleaved, spread
from .sizes import Sizes
from .tables import Table


def measure(sizes: Sizes, url: str, database: str) -> list[Table]:
    four = [contenders.ours(1), contenders.esi(), contenders.social(), contenders.plain(1)]
    count = sizes.rows(1, 0)
    runs = interleaved(four, [count] * len(four), latency=0, rounds=sizes.rounds, url=url)
    head = ["database", "who", "CPU ms", "queries"]
    table = Table("The cost of one refresh (one thread, no latency)", head)
    for contender, run in zip(four, runs, strict=True):
        milliseconds = spread([seconds * 1000 for seconds in run.cpu_seconds], 2)
        queries = f"{_queries(contender, count, url):.2f}"
        table.rows.append([database, contender.name, milliseconds, queries])
    return [table]


def _queries(contender: Contender, count: int, url: str) -> float:
    seen = 0

    def note(execute: Callable[..., Any], *query: Any) -> Any:
        nonlocal seen
        seen += 1
        return execute(*query)

    contender.fill(count)
    endpoint.restart(url)
    with connection.execute_wrapper(note):
        contender.run(count)
    return seen / count
