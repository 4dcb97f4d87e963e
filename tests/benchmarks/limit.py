"""Bulk refresh against a plain loop of requests on the same number of threads."""

from __future__ import annotations

from . import contenders
from .measuring import interleaved, spread
from .sizes import Sizes
from .tables import Table


def measure(sizes: Sizes, url: str, database: str) -> list[Table]:
    head = ["database", "latency", *(f"{threads} threads" for threads in sizes.threads)]
    table = Table("Refreshes a second, of those of a plain loop of requests, and their ratio", head)
    for latency in sizes.latencies:
        cells = [_cell(sizes, url, threads, latency) for threads in sizes.threads]
        table.rows.append([database, f"{latency * 1000:.0f} ms", *cells])
    return [table]


def _cell(sizes: Sizes, url: str, threads: int, latency: float) -> str:
    count = sizes.rows(threads, latency)
    pair = [contenders.ours(threads), contenders.plain(threads)]
    ours, plain = interleaved(pair, [count, count], latency=latency, rounds=sizes.rounds, url=url)
    return f"{spread(ours.per_second)} of {spread(plain.per_second)}: {spread(ours.over(plain), 2)}"
